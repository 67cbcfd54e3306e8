#include "services/cli/explain/explain.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/text/parquet_file.h"
#include "services/cli/explain/batch_arithmetic.h"
#include "services/cli/explain/chain_text.h"
#include "services/cli/explain/model_memory.h"
#include "services/cli/explain/objective_text.h"
#include "services/cli/explain/preset_changes.h"
#include "services/cli/explain/trained_part.h"
#include "services/cli/explain/warnings.h"

namespace rollcall::explain {
namespace {

using Json = nlohmann::ordered_json;

// A larger JSONL file takes too long to count.
constexpr uintmax_t kCountedBytes = uintmax_t{1} << 30;

// Rows of a Parquet file, lines of a JSONL file that are not blank; 0 where they cannot be counted.
uint64_t CountRows(const std::string& path) {
  uint64_t rows = 0;
  if (path.ends_with(".parquet")) {
    const auto parquet = text::ParquetFile::Open(path);
    if (!parquet.ok()) return 0;
    for (const auto& group : (*parquet)->row_groups()) rows += group.rows;
    return rows;
  }
  std::error_code error;
  if (std::filesystem::file_size(path, error) > kCountedBytes || error) return 0;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    rows += line.find_first_not_of(" \t\r") != std::string::npos ? 1 : 0;
  }
  return rows;
}

// Of all files together; 0 where one cannot be counted.
uint64_t CountRows(const v1::DataSection& data) {
  uint64_t rows = 0;
  for (const v1::DataSource& source : data.train()) {
    const uint64_t of_file = CountRows(source.path());
    if (of_file == 0) return 0;
    rows += of_file;
  }
  return rows;
}

ModelFacts FactsOf(const v1::RunConfig& config, absl::StatusOr<model::ModelConfig> model) {
  if (!model.ok()) return {};
  model->UseContext(config.model().context_tokens()).IgnoreError();  // the services refuse it
  const uint64_t width = config.model().dtype() == v1::COMPUTE_DTYPE_BFLOAT16 ? 2 : 4;
  return {.context = static_cast<uint64_t>(model->max_position_embeddings),
          .kv_bytes_per_token = static_cast<uint64_t>(model->KvElementsPerToken()) * width};
}

void AppendLine(std::string& text, const std::string& name, const std::string& value) {
  absl::StrAppend(&text, absl::StrFormat("  %-16s  %s\n", name, value));
}

void AppendLines(std::string& text, const std::string& title, const std::vector<Line>& lines) {
  if (lines.empty()) return;
  absl::StrAppend(&text, "\n", title, "\n");
  for (const Line& line : lines) AppendLine(text, line.name, line.text);
}

// The most that any phase takes; models without one are all there at once.
int64_t MostAtOnce(const std::vector<ModelMemory>& models) {
  std::map<std::string, int64_t> phases;
  int64_t most = 0;
  for (const ModelMemory& model : models) {
    most = std::max(most, phases[model.phase] += model.estimate.Total() * model.copies);
  }
  return most;
}

void AppendModels(std::string& text, const std::vector<ModelMemory>& models) {
  absl::StrAppend(&text, "\nmodels in memory\n");
  bool complete = true;
  for (const ModelMemory& model : models) {
    const std::string copies = model.copies > 1 ? absl::StrCat(model.copies, " × ") : "";
    absl::StrAppend(&text, "  ", model.phase, model.phase.empty() ? "" : ": ", copies, model.name,
                    "  (", model.path, ")\n");
    if (!model.unknown.empty()) {
      absl::StrAppend(&text, "    unknown: ", model.unknown, "\n");
      complete = false;
      continue;
    }
    for (const inspect::MemoryItem& item : model.estimate.items) {
      absl::StrAppend(&text, absl::StrFormat("    %-16s  %s = %s\n", item.name, item.arithmetic,
                                             inspect::HumanBytes(item.bytes)));
    }
    absl::StrAppend(&text, absl::StrFormat("    %-16s  %s\n", "together",
                                           inspect::HumanBytes(model.estimate.Total())));
  }
  const bool phases = !models.empty() && !models.front().phase.empty();
  AppendLine(text, absl::StrCat(phases ? "most at once" : "all", complete ? "" : " that is known"),
             inspect::HumanBytes(MostAtOnce(models)));
}

Json ToJson(const std::vector<Line>& lines) {
  Json json = Json::object();
  for (const Line& line : lines) json[line.name] = line.text;
  return json;
}

Json ToJson(const BatchArithmetic& batch) {
  return {{"prompts", batch.prompts},
          {"samples_per_prompt", batch.samples},
          {"extra_samples_per_prompt", batch.extra_samples},
          {"sequences", batch.sequences},
          {"mini_batches", batch.mini_batches},
          {"mini_batch_sequences", batch.mini_batch_sequences},
          {"longest_sequence", batch.longest_sequence},
          {"most_micro_batches", batch.most_micro_batches},
          {"optimizer_steps", batch.optimizer_steps},
          {"on_policy_steps", batch.on_policy_steps},
          {"total_optimizer_steps", batch.total_optimizer_steps},
          {"total_prompts", batch.total_prompts}};
}

Json ToJson(const ModelMemory& model) {
  Json json = {{"name", model.name}, {"path", model.path}, {"copies", model.copies}};
  if (!model.phase.empty()) json["phase"] = model.phase;
  if (!model.unknown.empty()) {
    json["unknown"] = model.unknown;
    return json;
  }
  json["items"] = Json::array();
  for (const inspect::MemoryItem& item : model.estimate.items) {
    json["items"].push_back(
        {{"name", item.name}, {"arithmetic", item.arithmetic}, {"bytes", item.bytes}});
  }
  json["bytes"] = model.estimate.Total();
  return json;
}

}  // namespace

Explanation Explain(const v1::RunConfig& config) {
  const auto model = ReadTrainedConfig(config);
  const ModelFacts facts = FactsOf(config, model);
  if (config.stage() == v1::STAGE_RLAIF) {
    return ExplainChain(config, facts, CountRows(config.data()));
  }
  Explanation explanation{.name = config.name(),
                          .stage = LowerName(v1::Stage_Name(config.stage()), "STAGE_"),
                          .objective = DescribeObjective(config),
                          .denominators = DescribeDenominators(config),
                          .batch = CountBatch(config, facts.context),
                          .trained = DescribeTrained(config, model),
                          .models = EstimateModels(config),
                          .warnings = FindWarnings(config, facts)};
  if (config.stage() == v1::STAGE_RL) {
    explanation.preset =
        LowerName(v1::AlgorithmPreset_Name(config.algorithm().preset()), "ALGORITHM_PRESET_");
    explanation.changed = ChangedCells(config.algorithm());
  }
  explanation.batch_lines = DescribeBatch(config, explanation.batch, CountRows(config.data()));
  return explanation;
}

std::string FormatText(const Explanation& explanation) {
  std::string text = absl::StrCat(explanation.name, ": stage ", explanation.stage);
  if (!explanation.preset.empty()) absl::StrAppend(&text, ", preset ", explanation.preset);
  absl::StrAppend(&text, "\n");
  AppendLines(text, "steps, one after the other", explanation.chain);
  AppendLines(text, absl::StrCat("cells that are not those of ", explanation.preset, "'s row"),
              explanation.changed);
  AppendLines(text, "objective, minimised", explanation.objective);
  AppendLines(text, "divided by", explanation.denominators);
  AppendLines(text, "batches", explanation.batch_lines);
  AppendLines(text, "trained", explanation.trained.lines);
  AppendModels(text, explanation.models);
  absl::StrAppend(&text, "\nwarnings\n");
  for (const Warning& warning : explanation.warnings) {
    absl::StrAppend(&text, "  ", warning.field, ": ", warning.message, " [", warning.id, "]\n");
  }
  if (explanation.warnings.empty()) absl::StrAppend(&text, "  none\n");
  return text;
}

std::string FormatJson(const Explanation& explanation) {
  Json json = {{"name", explanation.name},
               {"stage", explanation.stage},
               {"preset", explanation.preset},
               {"chain", ToJson(explanation.chain)},
               {"changed", ToJson(explanation.changed)},
               {"objective", ToJson(explanation.objective)},
               {"divided_by", ToJson(explanation.denominators)},
               {"batch", ToJson(explanation.batch)},
               {"trained",
                {{"parameters", explanation.trained.parameters},
                 {"trained", explanation.trained.trained},
                 {"optimizer_bytes", explanation.trained.optimizer_bytes},
                 {"published_bytes", explanation.trained.published_bytes}}},
               {"models", Json::array()},
               {"warnings", Json::array()}};
  for (const ModelMemory& model : explanation.models) json["models"].push_back(ToJson(model));
  for (const Warning& warning : explanation.warnings) {
    json["warnings"].push_back(
        {{"id", warning.id}, {"field", warning.field}, {"message", warning.message}});
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace rollcall::explain
