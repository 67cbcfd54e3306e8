#include "services/cli/rlaif/answers.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"

namespace rollcall::cli {
namespace {

using Json = nlohmann::ordered_json;

}  // namespace

uint64_t GroupOf(uint8_t step_number, uint64_t item, uint32_t call) {
  return uint64_t{step_number} << 56 | item << 16 | call;
}

v1::SamplingSection WithinContext(v1::SamplingSection sampling, uint32_t context_length) {
  sampling.set_max_tokens(std::min(sampling.max_tokens(), context_length));
  sampling.set_min_tokens(std::min(sampling.min_tokens(), sampling.max_tokens()));
  return sampling;
}

AnswersStep::AnswersStep(const v1::RunConfig& config, const ChainPrompts& prompts,
                         StepInputs inputs, uint32_t answers_per_prompt, uint8_t step_number)
    : config_(config),
      prompts_(prompts),
      inputs_(std::move(inputs)),
      answers_per_prompt_(answers_per_prompt),
      step_number_(step_number) {}

std::vector<uint64_t> AnswersStep::Items() const {
  std::vector<uint64_t> items(prompts_.rows.size());
  std::iota(items.begin(), items.end(), uint64_t{0});
  return items;
}

absl::Status AnswersStep::Work(uint64_t item, Parts /*done*/, const ServedModel& model,
                               const Emit& emit) const {
  const ChainPrompt& prompt = prompts_.rows[item];
  Json answers = Json::array();
  // A prompt that fills the context has no answers, which the summary counts.
  if (prompt.token_ids.size() < model.context_length) {
    ROLLCALL_ASSIGN_OR_RETURN(
        const std::vector<Completion> completions,
        model.client.Sample(SampleRequestOf(WithinContext(config_.sampling(), model.context_length),
                                            prompt.token_ids, answers_per_prompt_, config_.seed(),
                                            GroupOf(step_number_, item, 0))));
    for (const Completion& completion : completions) {
      answers.push_back({{"text", completion.text},
                         {"cut_off", completion.cut_off()},
                         {"tokens", completion.tokens}});
    }
  }
  emit(std::move(answers));
  return absl::OkStatus();
}

absl::StatusOr<StepOutput> AnswersStep::Conclude(const std::map<uint64_t, Parts>& items) const {
  StepOutput output;
  std::string& lines = output.files["answers.jsonl"];
  uint64_t answers = 0, cut_off = 0, tokens = 0, too_long = 0;
  for (const auto& [item, parts] : items) {
    const Json& of_prompt = parts.front();
    too_long += of_prompt.empty() ? 1 : 0;
    for (const Json& answer : of_prompt) {
      ++answers;
      cut_off += answer.at("cut_off").get<bool>() ? 1 : 0;
      tokens += answer.at("tokens").get<uint64_t>();
    }
    lines += JsonLine(
        {{"prompt_id", item}, {"prompt", prompts_.rows[item].column}, {"answers", of_prompt}});
  }
  if (answers == 0) {
    return absl::FailedPreconditionError(
        "no prompt leaves room for an answer in the model's context");
  }
  output.summary = {{"prompts", items.size()},
                    {"answers", answers},
                    {"cut_off", cut_off},
                    {"mean_tokens", static_cast<double>(tokens) / static_cast<double>(answers)},
                    {"prompts_that_fill_the_context", too_long}};
  return output;
}

absl::StatusOr<std::vector<std::vector<Answer>>> ReadAnswers(const std::string& path) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  std::vector<std::vector<Answer>> prompts;
  std::string_view rest = bytes;
  try {
    for (size_t end; (end = rest.find('\n')) != std::string_view::npos;
         rest.remove_prefix(end + 1)) {
      std::vector<Answer>& answers = prompts.emplace_back();
      const Json row = Json::parse(rest.substr(0, end));
      for (const Json& answer : row.at("answers")) {
        answers.push_back({.text = answer.at("text").get<std::string>(),
                           .cut_off = answer.at("cut_off").get<bool>(),
                           .tokens = answer.at("tokens").get<uint32_t>()});
      }
    }
  } catch (const Json::exception& error) {
    return absl::DataLossError(absl::StrCat(path, ":", prompts.size(), ": ", error.what()));
  }
  return prompts;
}

}  // namespace rollcall::cli
