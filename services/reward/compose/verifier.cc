#include "services/reward/compose/verifier.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/reward/compose/compose.h"

namespace rollcall::reward {

RuleVerifier::RuleVerifier(std::string name, std::unique_ptr<Rule> rule)
    : name_(std::move(name)), rule_(std::move(rule)) {}

Verifier::Cancel RuleVerifier::Score(const v1::ScoreRequest& request, absl::Time, Done done) {
  std::vector<v1::GroupResult> results;
  results.reserve(request.groups_size());
  for (const v1::VerifierGroup& group : request.groups()) {
    v1::GroupResult& result = results.emplace_back();
    result.set_group_id(group.group_id());
    for (const v1::VerifierSample& sample : group.samples()) {
      v1::SampleResult* out = result.add_samples();
      out->set_index(sample.index());
      rule_->Judge(group, sample, out);
    }
  }
  done(std::move(results));
  return [] {};
}

Verifier::Cancel RuleVerifier::Describe(absl::Time, DescribeDone done) {
  v1::VerifierDescription description;
  description.set_name(name_);
  description.set_version("built in");
  for (const std::string& column : rule_->columns()) description.add_columns(column);
  for (const std::string& component : rule_->components()) description.add_components(component);
  description.set_min_score(0);
  description.set_max_score(1);
  done(std::move(description));
  return [] {};
}

std::vector<v1::GroupResult> FaultForAll(const v1::ScoreRequest& request, bool passing,
                                         const std::string& reason) {
  std::vector<v1::GroupResult> results;
  results.reserve(request.groups_size());
  for (const v1::VerifierGroup& group : request.groups()) {
    v1::GroupResult& result = results.emplace_back();
    result.set_group_id(group.group_id());
    for (const v1::VerifierSample& sample : group.samples()) {
      v1::SampleResult* out = result.add_samples();
      out->set_index(sample.index());
      (passing ? out->mutable_retry() : out->mutable_error())->set_reason(reason);
    }
  }
  return results;
}

}  // namespace rollcall::reward
