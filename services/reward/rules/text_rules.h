#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "rollcall/v1/config.pb.h"
#include "services/reward/rules/rule.h"

namespace rollcall::reward {

// Rules about the form of the completion.

// 1 when the RE2 pattern matches the completion, or its first capture group of the last match
// equals the answer column up to white space at the ends. RE2's time is linear in the text for any
// pattern. Component: correct. INVALID_ARGUMENT: a pattern RE2 refuses or that is larger than its
// limits, or an answer column without a capture group.
absl::StatusOr<std::unique_ptr<Rule>> MakeRegex(const v1::RegexRule& options);

// 1 within the bounds on the number of tokens, falling linearly to 0 over soft_tokens outside.
// Components: tokens, and stopped, 1 where the completion ended by itself.
std::unique_ptr<Rule> MakeLength(const v1::LengthRule& options);

// 1 when the completion contains every text of the column and of the configuration. Components:
// correct, and found, the share of the texts that it contains.
std::unique_ptr<Rule> MakeContains(const v1::ContainsRule& options);

}  // namespace rollcall::reward
