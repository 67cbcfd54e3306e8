#pragma once

#include <memory>

#include "rollcall/v1/config.pb.h"
#include "services/reward/rules/rule.h"

namespace rollcall::reward {

// Rules that compare the completion's answer with the data row's.

// 1 when the completion, or what follows the last `after` in it, equals the answer column.
// Component: correct.
std::unique_ptr<Rule> MakeExactMatch(const v1::ExactMatchRule& options);

// 1 when the number behind the last marker equals the answer column's: the `#### 42` of GSM8K
// (Cobbe et al., arXiv 2110.14168), compared as decimals. An answer column that holds no number is
// an `error`. Components: correct, and parsed, 1 where the completion gave a number at all.
std::unique_ptr<Rule> MakeNumericAnswer(const v1::NumericAnswerRule& options);

}  // namespace rollcall::reward
