#include "services/reward/compose/compose.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "services/reward/rules/column.h"

namespace rollcall::reward {
namespace {

bool IsComponentName(const std::string& name) {
  return !name.empty() && name.size() <= kMaxComponentNameBytes &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '_' || c == '.' ||
                  c == '/';
         });
}

// What is wrong with a score, "" for nothing.
std::string FindBreach(const v1::VerifierSample& sample, const v1::Score& score) {
  if (!std::isfinite(score.value())) {
    return absl::StrCat("score.value: must be finite, got ", score.value());
  }
  if (score.components_size() > kMaxComponents) {
    return absl::StrCat("score.components: at most ", kMaxComponents, ", got ",
                        score.components_size());
  }
  for (const auto& [name, value] : score.components()) {
    if (!IsComponentName(name)) {
      return absl::StrCat("score.components: names are [a-z0-9_./]{1,64}, got \"",
                          CutUtf8(name, 80), "\"");
    }
    if (!std::isfinite(value)) {
      return absl::StrCat("score.components[", name, "]: must be finite, got ", value);
    }
  }
  if (score.spans_size() > kMaxSpans) {
    return absl::StrCat("score.spans: at most ", kMaxSpans, ", got ", score.spans_size());
  }
  for (int i = 0; i < score.spans_size(); ++i) {
    const v1::SpanScore& span = score.spans(i);
    if (span.begin() >= span.end() || span.end() > static_cast<uint32_t>(sample.token_ids_size())) {
      return absl::StrCat("score.spans[", i, "]: [", span.begin(), ", ", span.end(),
                          ") is not a part of the ", sample.token_ids_size(), " tokens");
    }
    if (!std::isfinite(span.value())) {
      return absl::StrCat("score.spans[", i, "].value: must be finite, got ", span.value());
    }
  }
  return "";
}

void AppendNamed(const std::string& name, const std::string& text, std::string* joined) {
  if (text.empty()) return;
  absl::StrAppend(joined, joined->empty() ? "" : "; ", name, ": ", text);
}

// The failures of deciding verifiers as the sample's outcome; false when there are none.
bool ComposeFailures(std::span<const RewardTerm> terms,
                     std::span<const v1::SampleResult* const> results, v1::SampleResult* out) {
  std::string reasons;
  bool lasting = false;
  bool failed = false;
  for (size_t i = 0; i < terms.size(); ++i) {
    if (!terms[i].decides() || !(results[i]->has_error() || results[i]->has_retry())) continue;
    failed = true;
    lasting = lasting || results[i]->has_error();
    const v1::Fault& fault = results[i]->has_error() ? results[i]->error() : results[i]->retry();
    AppendNamed(terms[i].name, fault.reason().empty() ? "failed" : fault.reason(), &reasons);
  }
  if (!failed) return false;
  v1::Fault* fault = lasting ? out->mutable_error() : out->mutable_retry();
  fault->set_reason(CutUtf8(reasons, kMaxDetailBytes));
  return true;
}

// Scores first and parts after them, so that a verifier with many parts never pushes out another's
// score.
void ComposeComponents(std::span<const RewardTerm> terms,
                       std::span<const v1::SampleResult* const> results, v1::Score* out) {
  auto& components = *out->mutable_components();
  for (size_t i = 0; i < terms.size() && components.size() < kMaxComponents; ++i) {
    if (results[i]->has_score()) components[terms[i].name] = results[i]->score().value();
  }
  for (size_t i = 0; i < terms.size(); ++i) {
    if (!results[i]->has_score()) continue;
    const auto& parts = results[i]->score().components();
    std::vector<std::string> names;
    for (const auto& [name, value] : parts) names.push_back(name);
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) {
      const std::string full = absl::StrCat(terms[i].name, "/", name);
      if (components.size() >= kMaxComponents || full.size() > kMaxComponentNameBytes) continue;
      components[full] = parts.at(name);
    }
  }
}

void ComposeSpans(std::span<const RewardTerm> terms,
                  std::span<const v1::SampleResult* const> results, v1::Score* out) {
  for (size_t i = 0; i < terms.size(); ++i) {
    if (!results[i]->has_score() || terms[i].weight == 0) continue;
    for (const v1::SpanScore& span : results[i]->score().spans()) {
      v1::SpanScore* weighted = out->add_spans();
      *weighted = span;
      weighted->set_value(terms[i].weight * span.value());
    }
  }
}

}  // namespace

RewardTerm::RewardTerm(const v1::VerifierConfig& config)
    : name(config.name()), weight(config.weight()), reward_if_gated(config.reward_if_gated()) {
  if (config.has_gate()) gate = config.gate();
}

v1::SampleResult ComposeSample(std::span<const RewardTerm> terms,
                               std::span<const v1::SampleResult* const> results) {
  v1::SampleResult out;
  if (!results.empty()) out.set_index(results[0]->index());
  if (ComposeFailures(terms, results, &out)) return out;

  double sum = 0;
  const RewardTerm* closed_gate = nullptr;
  // Where all of them only report there is nothing to wait for: the sum is that of no terms.
  bool any_score = std::none_of(terms.begin(), terms.end(),
                                [](const RewardTerm& term) { return term.decides(); });
  std::string details;
  std::string abstentions;
  for (size_t i = 0; i < terms.size(); ++i) {
    const RewardTerm& term = terms[i];
    if (results[i]->has_abstain() && term.decides()) {
      AppendNamed(term.name, results[i]->abstain().reason(), &abstentions);
    }
    if (!results[i]->has_score()) continue;
    const v1::Score& score = results[i]->score();
    AppendNamed(term.name, score.detail(), &details);
    if (!term.decides()) continue;
    any_score = true;
    sum += term.weight * score.value();
    if (term.gate && score.value() < *term.gate && closed_gate == nullptr) closed_gate = &term;
  }
  if (!any_score) {
    out.mutable_abstain()->set_reason(CutUtf8(abstentions, kMaxDetailBytes));
    return out;
  }
  const double value = closed_gate != nullptr ? closed_gate->reward_if_gated : sum;
  if (!std::isfinite(value)) {
    out.mutable_error()->set_reason("the weighted sum of the scores is not finite");
    return out;
  }
  v1::Score* score = out.mutable_score();
  score->set_value(value);
  score->set_detail(CutUtf8(details, kMaxDetailBytes));
  ComposeComponents(terms, results, score);
  if (closed_gate == nullptr) ComposeSpans(terms, results, score);
  return out;
}

absl::Status CheckShape(std::span<const v1::VerifierGroup* const> groups,
                        const v1::ScoreResponse& response) {
  if (static_cast<size_t>(response.groups_size()) != groups.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("groups: expected ", groups.size(), ", got ", response.groups_size()));
  }
  for (size_t g = 0; g < groups.size(); ++g) {
    const v1::VerifierGroup& asked = *groups[g];
    const v1::GroupResult& given = response.groups(static_cast<int>(g));
    if (given.group_id() != asked.group_id()) {
      return absl::InvalidArgumentError(absl::StrCat("groups[", g, "].group_id: expected ",
                                                     asked.group_id(), ", got ", given.group_id()));
    }
    if (given.samples_size() != asked.samples_size()) {
      return absl::InvalidArgumentError(absl::StrCat("groups[", g, "].samples: expected ",
                                                     asked.samples_size(), ", got ",
                                                     given.samples_size()));
    }
    for (int s = 0; s < asked.samples_size(); ++s) {
      if (given.samples(s).index() != asked.samples(s).index()) {
        return absl::InvalidArgumentError(
            absl::StrCat("groups[", g, "].samples[", s, "].index: expected ",
                         asked.samples(s).index(), ", got ", given.samples(s).index()));
      }
    }
  }
  return absl::OkStatus();
}

bool EnforceContract(const v1::VerifierSample& sample, v1::SampleResult* result) {
  std::string breach;
  switch (result->outcome_case()) {
    case v1::SampleResult::kScore: {
      breach = FindBreach(sample, result->score());
      std::string* detail = result->mutable_score()->mutable_detail();
      *detail = CutUtf8(*detail, kMaxDetailBytes);
      break;
    }
    case v1::SampleResult::kAbstain:
      result->mutable_abstain()->set_reason(CutUtf8(result->abstain().reason(), kMaxDetailBytes));
      break;
    case v1::SampleResult::kRetry:
      result->mutable_retry()->set_reason(CutUtf8(result->retry().reason(), kMaxDetailBytes));
      break;
    case v1::SampleResult::kError:
      result->mutable_error()->set_reason(CutUtf8(result->error().reason(), kMaxDetailBytes));
      break;
    case v1::SampleResult::OUTCOME_NOT_SET:
      breach = "outcome: not set";
      break;
  }
  if (breach.empty()) return true;
  result->mutable_error()->set_reason(absl::StrCat("the verifier's answer is invalid: ", breach));
  return false;
}

}  // namespace rollcall::reward
