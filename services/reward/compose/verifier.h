#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "rollcall/v1/verifier.pb.h"
#include "services/reward/rules/rule.h"

namespace rollcall::reward {

// One verifier of a composition, built in or remote. Thread-safe.
class Verifier {
 public:
  // One GroupResult per group of the request, of the same shape; every result has an outcome and
  // keeps the contract.
  using Done = std::function<void(std::vector<v1::GroupResult>)>;
  using DescribeDone = std::function<void(absl::StatusOr<v1::VerifierDescription>)>;
  // Makes a call end soon, with whatever results; it still calls `done`. Never blocks; any number
  // of times.
  using Cancel = std::function<void()>;

  virtual ~Verifier() = default;

  // Starts scoring and returns; `done` is called exactly once, by then or later, on any thread,
  // soon after `deadline` at the latest. It must not block. `request` must stay as it is until
  // then.
  virtual Cancel Score(const v1::ScoreRequest& request, absl::Time deadline, Done done) = 0;

  // What it is; `done` exactly once, as above.
  virtual Cancel Describe(absl::Time deadline, DescribeDone done) = 0;
};

// A rule as a verifier: both calls compute and answer before they return.
class RuleVerifier : public Verifier {
 public:
  RuleVerifier(std::string name, std::unique_ptr<Rule> rule);

  Cancel Score(const v1::ScoreRequest& request, absl::Time deadline, Done done) override;
  Cancel Describe(absl::Time deadline, DescribeDone done) override;

 private:
  const std::string name_;
  const std::unique_ptr<Rule> rule_;
};

// A result list of the request's shape in which every sample has the fault `reason`, as `retry` or
// as `error`.
std::vector<v1::GroupResult> FaultForAll(const v1::ScoreRequest& request, bool passing,
                                         const std::string& reason);

}  // namespace rollcall::reward
