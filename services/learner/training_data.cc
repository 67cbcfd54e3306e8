#include "services/learner/training_data.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/config/preference_rules.h"
#include "services/learner/data/demonstrations.h"
#include "services/learner/data/labelled_completions.h"
#include "services/learner/data/preferences.h"
#include "services/learner/data/prompt_set.h"
#include "services/learner/data/read_ahead.h"

namespace rollcall::learner {
namespace {

void Count(uint64_t used, const LeftOutRows& left_out, v1::DataCounts& counts) {
  counts.set_used(counts.used() + used);
  counts.set_skipped(counts.skipped() + left_out.unreadable);
  counts.set_dropped(counts.dropped() + left_out.too_long);
  counts.set_truncated(counts.truncated() + left_out.truncated);
}

// Of examples in memory the rows used and left out. What is streamed is all used until a step's
// metrics say otherwise.
template <typename T>
void Count(const Examples<T>& examples, v1::DataCounts& counts) {
  Count(examples.rows(), examples.left_out(), counts);
}

// Rows that are streamed are read and tokenised while the step before them is trained.
std::unique_ptr<BatchSource> ReadAhead(bool streamed, std::unique_ptr<BatchSource> source) {
  if (!streamed) return source;
  return std::make_unique<ReadAheadSource>(std::move(source));
}

absl::StatusOr<std::vector<v1::PromptRow>> EvaluationPrompts(const v1::RunConfig& config,
                                                             const text::Tokenizer& tokenizer,
                                                             v1::DataCounts& counts) {
  std::vector<v1::PromptRow> prompts;
  if (config.data().evaluation().empty()) return prompts;
  ROLLCALL_ASSIGN_OR_RETURN(PromptSet set,
                            LoadPrompts(config.data(), config.data().evaluation(), tokenizer));
  Count(set.rows.size(), set.left_out, counts);
  const uint32_t limit = config.evaluation().max_prompts();
  for (v1::PromptRow& row : set.rows) {
    if (limit > 0 && prompts.size() == limit) break;
    prompts.push_back(std::move(row));
  }
  return prompts;
}

// The first evaluation.max_prompts of the held-out rows.
template <typename Row>
std::vector<const Row*> HeldOut(const v1::RunConfig& config, const std::vector<Row>& rows) {
  std::vector<const Row*> kept;
  const uint32_t limit = config.evaluation().max_prompts();
  for (const Row& row : rows) {
    if (limit == 0 || kept.size() < limit) kept.push_back(&row);
  }
  return kept;
}

absl::Status ReadPairs(const v1::RunConfig& config, const text::Tokenizer& tokenizer,
                       uint32_t context_length, TrainingData& data) {
  ROLLCALL_ASSIGN_OR_RETURN(const auto examples,
                            OpenPreferences(config.data(), config.data().train(), tokenizer,
                                            context_length, config.seed()));
  Count(*examples, data.counts);
  data.recorded =
      ReadAhead(examples->streamed(),
                std::make_unique<PreferenceSource>(examples, config.learner().prompts_per_step()));
  if (config.data().evaluation().empty()) return absl::OkStatus();
  ROLLCALL_ASSIGN_OR_RETURN(
      const PreferenceSet held_out,
      LoadPreferences(config.data(), config.data().evaluation(), tokenizer, context_length));
  Count(held_out.pairs.size(), held_out.left_out, data.counts);
  data.held_out_pairs = BatchOfPairs(HeldOut(config, held_out.pairs));
  return absl::OkStatus();
}

absl::Status ReadLabelled(const v1::RunConfig& config, const text::Tokenizer& tokenizer,
                          uint32_t context_length, TrainingData& data) {
  ROLLCALL_ASSIGN_OR_RETURN(const auto examples,
                            OpenLabelledCompletions(config.data(), config.data().train(), tokenizer,
                                                    context_length, config.seed()));
  Count(*examples, data.counts);
  data.recorded = ReadAhead(examples->streamed(),
                            std::make_unique<LabelledSource>(
                                examples, config.learner().prompts_per_step(), context_length));
  if (config.data().evaluation().empty()) return absl::OkStatus();
  ROLLCALL_ASSIGN_OR_RETURN(const LabelledSet held_out,
                            LoadLabelledCompletions(config.data(), config.data().evaluation(),
                                                    tokenizer, context_length));
  Count(held_out.rows.size(), held_out.left_out, data.counts);
  data.held_out_pairs = BatchOfLabelled(HeldOut(config, held_out.rows), context_length);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TrainingData> LoadTrainingData(const v1::RunConfig& config,
                                              const text::Tokenizer& tokenizer,
                                              uint32_t context_length) {
  TrainingData data;
  if (config::ReadsPairs(config.stage())) {
    ROLLCALL_RETURN_IF_ERROR(ReadPairs(config, tokenizer, context_length, data));
    return data;
  }
  if (config.stage() == v1::STAGE_KTO) {
    ROLLCALL_RETURN_IF_ERROR(ReadLabelled(config, tokenizer, context_length, data));
    return data;
  }
  if (config.stage() == v1::STAGE_RL) {
    ROLLCALL_ASSIGN_OR_RETURN(const auto examples, OpenPrompts(config.data(), config.data().train(),
                                                               tokenizer, config.seed()));
    Count(*examples, data.counts);
    data.prompts = std::make_unique<PromptSource>(examples);
  } else if (config.stage() == v1::STAGE_SFT) {
    ROLLCALL_ASSIGN_OR_RETURN(const auto examples,
                              OpenDemonstrations(config.data(), config.data().train(), tokenizer,
                                                 context_length, config.seed()));
    Count(*examples, data.counts);
    data.recorded = ReadAhead(
        examples->streamed(),
        std::make_unique<DemonstrationSource>(examples, config.learner().prompts_per_step()));
  }
  ROLLCALL_ASSIGN_OR_RETURN(data.evaluation, EvaluationPrompts(config, tokenizer, data.counts));
  return data;
}

PromptFn DrawFrom(const PromptSource* source, uint32_t context_length) {
  return [source, context_length](uint64_t group_id) -> absl::StatusOr<PromptDraw> {
    PromptDraw draw;
    ROLLCALL_ASSIGN_OR_RETURN(draw.prompt, source->PromptAt(group_id));
    const int tokens = draw.prompt.token_ids_size();
    if (static_cast<uint32_t>(tokens) >= context_length) {
      draw.too_long = absl::StrCat(
          tokens, " tokens leave no room for a completion in a context of ", context_length);
    }
    return draw;
  };
}

}  // namespace rollcall::learner
