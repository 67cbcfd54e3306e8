#include "services/learner/training_data.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "services/learner/data/demonstrations.h"
#include "services/learner/data/prompt_set.h"

namespace rollcall::learner {
namespace {

absl::StatusOr<std::vector<v1::PromptRow>> EvaluationPrompts(const v1::RunConfig& config,
                                                             const text::Tokenizer& tokenizer) {
  std::vector<v1::PromptRow> prompts;
  if (config.data().evaluation().empty()) return prompts;
  ROLLCALL_ASSIGN_OR_RETURN(PromptSet set,
                            LoadPrompts(config.data(), config.data().evaluation(), tokenizer));
  const uint32_t limit = config.evaluation().max_prompts();
  for (v1::PromptRow& row : set.rows) {
    if (limit > 0 && prompts.size() == limit) break;
    prompts.push_back(std::move(row));
  }
  return prompts;
}

}  // namespace

absl::StatusOr<TrainingData> LoadTrainingData(const v1::RunConfig& config,
                                              const text::Tokenizer& tokenizer,
                                              uint32_t context_length) {
  TrainingData data;
  const bool shuffle = config.data().shuffle();
  if (config.stage() == v1::STAGE_RL) {
    ROLLCALL_ASSIGN_OR_RETURN(PromptSet set,
                              LoadPrompts(config.data(), config.data().train(), tokenizer));
    data.prompts = std::make_unique<PromptSource>(std::make_shared<const PromptSet>(std::move(set)),
                                                  config.seed(), shuffle);
  } else if (config.stage() == v1::STAGE_SFT) {
    ROLLCALL_ASSIGN_OR_RETURN(
        DemonstrationSet set,
        LoadDemonstrations(config.data(), config.data().train(), tokenizer, context_length));
    data.demonstrations = std::make_unique<DemonstrationSource>(
        std::make_shared<const DemonstrationSet>(std::move(set)), config.seed(), shuffle,
        config.learner().prompts_per_step());
  }
  ROLLCALL_ASSIGN_OR_RETURN(data.evaluation, EvaluationPrompts(config, tokenizer));
  return data;
}

PromptFn DrawFrom(const PromptSource* source, uint32_t context_length) {
  return [source, context_length](uint64_t group_id) -> absl::StatusOr<PromptDraw> {
    PromptDraw draw;
    draw.prompt = source->PromptAt(group_id);
    const int tokens = draw.prompt.token_ids_size();
    if (static_cast<uint32_t>(tokens) >= context_length) {
      draw.too_long = absl::StrCat(
          tokens, " tokens leave no room for a completion in a context of ", context_length);
    }
    return draw;
  };
}

}  // namespace rollcall::learner
