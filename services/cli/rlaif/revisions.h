#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "services/cli/rlaif/answers.h"
#include "services/cli/rlaif/chain_prompts.h"
#include "services/cli/rlaif/constitution.h"
#include "services/cli/rlaif/sampling_step.h"

namespace rollcall::cli {

// Has a critic criticise and revise each answer under drawn principles, rlaif.revisions times: step `revisions`. An item is
// a prompt, a part a round. Leaves sft.jsonl, demonstrations whose completion is the last revision, with where it came from:
//   {"prompt": …, "completion": " …", "principle": "polite", "critique": "…", "original_answer": "…", "prompt_id": 17,
//    "rounds": [{"principle": …, "critique": …, "revision": …}, …]}
// in the columns that the configuration names. Left out, and counted: a prompt without an answer (no_answer), a revision that
// was cut off (cut_off) or is empty (empty), a request that does not fit the critic's context (too_long).
class RevisionsStep final : public SamplingStep {
 public:
  RevisionsStep(const v1::RunConfig& config, const Constitution& constitution,
                const ChainPrompts& prompts, std::vector<std::vector<Answer>> answers,
                StepInputs inputs);

  StepInputs Inputs() const override { return inputs_; }
  std::vector<uint64_t> Items() const override;
  uint32_t CallSize() const override { return 1; }
  bool Complete(const Parts& parts) const override;
  absl::Status Work(uint64_t item, Parts done, const ServedModel& model,
                    const Emit& emit) const override;
  absl::StatusOr<StepOutput> Conclude(const std::map<uint64_t, Parts>& items) const override;

 private:
  // {"principle", "critique", "critique_cut_off", "revision"} or {"left_out"}.
  absl::StatusOr<Json> Round(uint64_t item, uint32_t round, const std::string& answer,
                             const ServedModel& model) const;
  // nullopt: it does not fit.
  absl::StatusOr<std::optional<Completion>> Ask(const FeedbackPrompt& prompt, uint64_t group,
                                                const ServedModel& model) const;
  Json Row(uint64_t item, const Parts& parts) const;

  const v1::RunConfig& config_;
  const Constitution& constitution_;
  const ChainPrompts& prompts_;
  const std::vector<std::vector<Answer>> answers_;
  const StepInputs inputs_;
  const std::vector<double> weights_;
};

}  // namespace rollcall::cli
