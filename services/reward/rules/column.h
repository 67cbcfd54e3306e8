#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "rollcall/v1/verifier.pb.h"

namespace rollcall::reward {

// Columns are named as learners name them: by a column's own name, or by a path of names joined by
// dots into nested ones ("reward_model.ground_truth"); a column whose own name has the dots comes
// first.

// The texts of a column: one for a text, number or truth value, several for a list of those.
// nullopt when there is nothing to read, and `result` then says why: `abstain` for null, `error`
// for a column that is absent or holds something else.
std::optional<std::vector<std::string>> TextsOfColumn(const v1::VerifierGroup& group,
                                                      const std::string& column,
                                                      v1::SampleResult* result);

// As above for a column that must hold exactly one.
std::optional<std::string> TextOfColumn(const v1::VerifierGroup& group, const std::string& column,
                                        v1::SampleResult* result);

// `text` without ASCII white space at both ends.
std::string_view StripSpace(std::string_view text);

// `text` cut to at most `bytes` bytes, at a character's start.
std::string CutUtf8(std::string_view text, size_t bytes);

// Score 0 or 1 with its component `correct`, and what was compared.
void SetCorrect(bool correct, std::string_view detail, v1::SampleResult* result);

}  // namespace rollcall::reward
