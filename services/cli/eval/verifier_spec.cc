#include "services/cli/eval/verifier_spec.h"

#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace rollcall::cli {
namespace {

// Fields of VerifierConfig itself; all others are the kind's.
bool IsVerifiersOwn(const std::string& field) {
  const auto* const descriptor = v1::VerifierConfig::descriptor()->FindFieldByName(field);
  return descriptor != nullptr && descriptor->real_containing_oneof() == nullptr;
}

bool ComparesAnAnswer(const v1::VerifierConfig& verifier) {
  return verifier.has_exact_match() || verifier.has_numeric_answer() ||
         (verifier.has_regex() && !verifier.regex().answer_column().empty());
}

}  // namespace

absl::StatusOr<std::vector<std::string>> VerifierOverrides(std::span<const std::string> specs) {
  std::vector<std::string> overrides;
  for (size_t i = 0; i < specs.size(); ++i) {
    const std::vector<std::string> parts = absl::StrSplit(specs[i], ',');
    const std::string& kind = parts[0];
    if (kind.empty() || absl::StrContains(kind, '=')) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--verifier ", specs[i], ": expected kind[,field=value]…, as in exact_match,after=####"));
    }
    const std::string path = absl::StrCat("reward.verifiers[", i, "]");
    overrides.push_back(absl::StrCat(path, ".name=", kind));
    overrides.push_back(absl::StrCat(path, ".", kind, "={}"));
    for (size_t part = 1; part < parts.size(); ++part) {
      const std::pair<std::string, std::string> field =
          absl::StrSplit(parts[part], absl::MaxSplits('=', 1));
      if (field.first.empty() || !absl::StrContains(parts[part], '=')) {
        return absl::InvalidArgumentError(absl::StrCat(
            "--verifier ", specs[i], ": expected field=value, got \"", parts[part], "\""));
      }
      overrides.push_back(absl::StrCat(path, ".",
                                       IsVerifiersOwn(field.first) ? "" : absl::StrCat(kind, "."),
                                       field.first, "=", field.second));
    }
  }
  return overrides;
}

std::string AnswerOf(const v1::RewardSection& reward, const std::string& detail,
                     const std::string& completion) {
  const auto& verifiers = reward.verifiers();
  const auto judge = std::find_if(verifiers.begin(), verifiers.end(), ComparesAnAnswer);
  // The reward service joins details as "name: detail; name: detail".
  const size_t start = judge == verifiers.end() ? std::string::npos
                       : absl::StartsWith(detail, judge->name() + ": ")
                           ? 0
                           : detail.find(absl::StrCat("; ", judge->name(), ": "));
  if (start == std::string::npos) return std::string(absl::StripAsciiWhitespace(completion));
  const size_t begin = start + judge->name().size() + 2 + (start == 0 ? 0 : 2);
  size_t end = detail.size();
  for (auto later = std::next(judge); later != verifiers.end(); ++later) {
    end = std::min(end, detail.find(absl::StrCat("; ", later->name(), ": "), begin));
  }
  return detail.substr(begin, end - begin);
}

}  // namespace rollcall::cli
