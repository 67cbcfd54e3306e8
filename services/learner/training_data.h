#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/tokenizer.h"
#include "rollcall/v1/config.pb.h"
#include "rollcall/v1/learner.pb.h"
#include "services/learner/batching/batch.h"
#include "services/learner/data/prompt_source.h"
#include "services/learner/rollout/coordinator.h"
#include "services/learner/rollout/group_spec.h"

namespace rollcall::learner {

// What the `data` section names, read for a run's stage.
struct TrainingData {
  std::unique_ptr<PromptSource> prompts;  // rl
  // sft: demonstrations; reward_model, dpo, simpo, orpo: pairs; kto: labelled completions
  std::unique_ptr<BatchSource> recorded;
  // Stages of pairs and kto: the first evaluation.max_prompts held-out rows, in order.
  std::optional<TrainBatch> held_out_pairs;
  // Held-out prompts, the first evaluation.max_prompts of them.
  std::vector<v1::PromptRow> evaluation;
  // Of all files read, train and evaluation.
  v1::DataCounts counts;
};

// Reads and tokenises all of it, training rows that take more than kMemoryBytes as they are asked
// for; `config` and `tokenizer` must outlive it. `context_length` bounds a recorded sequence.
// Statuses of OpenPrompts, OpenDemonstrations, OpenPreferences and OpenLabelledCompletions. Blocks on
// the disk.
absl::StatusOr<TrainingData> LoadTrainingData(const v1::RunConfig& config,
                                              const text::Tokenizer& tokenizer,
                                              uint32_t context_length);

// The prompts of `source`, which must outlive the result, as the coordinator draws them. One that
// leaves no room for a completion in the context is too long.
PromptFn DrawFrom(const PromptSource* source, uint32_t context_length);

}  // namespace rollcall::learner
