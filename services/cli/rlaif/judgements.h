#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "services/cli/rlaif/answers.h"
#include "services/cli/rlaif/chain_prompts.h"
#include "services/cli/rlaif/constitution.h"
#include "services/cli/rlaif/preference.h"
#include "services/cli/rlaif/sampling_step.h"

namespace rollcall::cli {

// Two answers to one prompt.
struct AnswerPair {
  uint64_t prompt = 0;
  const Answer* first = nullptr;
  const Answer* second = nullptr;
};

// Why a pair is not worth the judge's time, "" when it is: "cut_off" (one did not come to an end), "empty" (one says
// nothing), "equal".
std::string ReasonToLeaveOut(const AnswerPair& pair);

// Has a judge compare each prompt's neighbouring answers under every principle, shown in both orders: step `preferences`.
// An item is a pair, a part a principle. Leaves
//   judgements.jsonl  every judged pair with its log-odds in both orders under each principle
//   pairs.jsonl       the preferences, in the columns that the configuration names and `preference`, the soft label:
//     {"prompt": …, "chosen": "…", "rejected": "…", "preference": 0.93, "log_odds": 2.6, "prompt_id": 17, "pair": 0}
// Left out of the latter, and counted: ReasonToLeaveOut's, a request that does not fit the judge's context (too_long), and
// pairs whose log-odds are nearer to 0 than rlaif.min_log_odds, or 0 (undecided).
class JudgementsStep final : public SamplingStep {
 public:
  JudgementsStep(const v1::RunConfig& config, const Constitution& constitution,
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
  struct Tally;

  // {"shown_first", "shown_second"} or {"left_out"}.
  absl::StatusOr<Json> Judge(const AnswerPair& pair, size_t principle,
                             const ServedModel& model) const;
  // log p(label_a) - log p(label_b) with `a` shown as A; nullopt: it does not fit.
  absl::StatusOr<std::optional<double>> LabelOdds(size_t principle, const std::string& prompt,
                                                  const std::string& a, const std::string& b,
                                                  const ServedModel& model) const;
  void AddPair(uint64_t item, const Parts& parts, Tally& tally) const;

  const v1::RunConfig& config_;
  const Constitution& constitution_;
  const ChainPrompts& prompts_;
  const std::vector<std::vector<Answer>> answers_;
  const StepInputs inputs_;
  const std::vector<double> weights_;
  std::vector<AnswerPair> pairs_;  // by item number; constant after construction
};

}  // namespace rollcall::cli
