#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "rollcall/v1/config.pb.h"

namespace rollcall::cli {

// Verifiers as a command line gives them, as configuration overrides for reward.verifiers:
//   "exact_match,after=####"            a rule and its fields
//   "remote,address=127.0.0.1:7500"     a process of the user's
//   "length,max_tokens=9,weight=0.5"    name, weight, gate … are the verifier's own fields
// The name is the kind's unless given. INVALID_ARGUMENT: not kind[,field=value]….
absl::StatusOr<std::vector<std::string>> VerifierOverrides(std::span<const std::string> specs);

// What a completion answered, of the composed score's `detail`: what the first verifier that
// compares an answer says it found (exact_match, numeric_answer, regex with an answer column), else
// the completion itself, without white space at its ends.
std::string AnswerOf(const v1::RewardSection& reward, const std::string& detail,
                     const std::string& completion);

}  // namespace rollcall::cli
