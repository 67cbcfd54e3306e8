#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "services/cli/rlaif/chain_prompts.h"
#include "services/cli/rlaif/sampling_step.h"

namespace rollcall::cli {

struct Answer {
  std::string text;
  bool cut_off = false;
  uint32_t tokens = 0;
};

// Samples answers of the policy: steps `answers` and `samples`. Leaves answers.jsonl, a line a prompt:
//   {"prompt_id": 17, "prompt": …, "answers": [{"text": "…", "cut_off": false, "tokens": 12}, …]}
class AnswersStep final : public SamplingStep {
 public:
  // `inputs` name the weights. `step_number` tells the noise of the two steps apart.
  AnswersStep(const v1::RunConfig& config, const ChainPrompts& prompts, StepInputs inputs,
              uint32_t answers_per_prompt, uint8_t step_number);

  StepInputs Inputs() const override { return inputs_; }
  std::vector<uint64_t> Items() const override;
  uint32_t CallSize() const override { return answers_per_prompt_; }
  bool Complete(const Parts& parts) const override { return !parts.empty(); }
  absl::Status Work(uint64_t item, Parts done, const ServedModel& model,
                    const Emit& emit) const override;
  absl::StatusOr<StepOutput> Conclude(const std::map<uint64_t, Parts>& items) const override;

 private:
  const v1::RunConfig& config_;
  const ChainPrompts& prompts_;
  const StepInputs inputs_;
  const uint32_t answers_per_prompt_;
  const uint8_t step_number_;
};

// What an answers.jsonl holds: the answers of each prompt, in order. DATA_LOSS: it is none.
absl::StatusOr<std::vector<std::vector<Answer>>> ReadAnswers(const std::string& path);

// Noise of a call: different steps, items and calls never share random words, nor do the training stages, which count
// their groups from 0. `call` < 2^16, `item` < 2^40.
uint64_t GroupOf(uint8_t step_number, uint64_t item, uint32_t call);

// `sampling` within what is left of a model's context.
v1::SamplingSection WithinContext(v1::SamplingSection sampling, uint32_t context_length);

}  // namespace rollcall::cli
