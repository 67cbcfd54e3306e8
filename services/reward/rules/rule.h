#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "rollcall/v1/config.pb.h"
#include "rollcall/v1/verifier.pb.h"

namespace rollcall::reward {

// A built-in verifier: a pure function of one sample and its data row. What is wrong with the
// completion is the score 0; what is wrong with the data row is an `error`, so that a misspelt
// column never trains on zeros. A row whose column is null abstains: that is how a mixed data set
// says "not this kind of task". Never `retry`. Immutable, thread-safe.
class Rule {
 public:
  virtual ~Rule() = default;

  // Sets the outcome of `result`. Scores lie in [0, 1].
  virtual void Judge(const v1::VerifierGroup& group, const v1::VerifierSample& sample,
                     v1::SampleResult* result) const = 0;

  // Columns of the data row that Judge reads, and components it may report.
  virtual std::vector<std::string> columns() const = 0;
  virtual std::vector<std::string> components() const = 0;
};

// The rule that `config` names. INVALID_ARGUMENT names the field: a pattern that RE2 refuses or
// that is too large, a remote verifier or none at all.
absl::StatusOr<std::unique_ptr<Rule>> MakeRule(const v1::VerifierConfig& config);

}  // namespace rollcall::reward
