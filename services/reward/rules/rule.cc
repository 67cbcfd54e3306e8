#include "services/reward/rules/rule.h"

#include "services/reward/rules/answer_rules.h"
#include "services/reward/rules/text_rules.h"

namespace rollcall::reward {

absl::StatusOr<std::unique_ptr<Rule>> MakeRule(const v1::VerifierConfig& config) {
  switch (config.kind_case()) {
    case v1::VerifierConfig::kExactMatch:
      return MakeExactMatch(config.exact_match());
    case v1::VerifierConfig::kNumericAnswer:
      return MakeNumericAnswer(config.numeric_answer());
    case v1::VerifierConfig::kRegex:
      return MakeRegex(config.regex());
    case v1::VerifierConfig::kLength:
      return MakeLength(config.length());
    case v1::VerifierConfig::kContains:
      return MakeContains(config.contains());
    case v1::VerifierConfig::kRemote:
      return absl::InvalidArgumentError("remote: not a built-in rule");
    case v1::VerifierConfig::kRewardModel:
      return absl::InvalidArgumentError("reward_model: not a built-in rule");
    case v1::VerifierConfig::KIND_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError(
      "needs one of exact_match, numeric_answer, regex, length, contains, remote, reward_model");
}

}  // namespace rollcall::reward
