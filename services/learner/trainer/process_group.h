#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace at {
class Tensor;
}

namespace rollcall::learner {

// The ranks that train one model together. Collective calls are made by the training thread of
// every rank in the same order and block until all have called; a failed one is UNAVAILABLE and
// ends the run on every rank.
class ProcessGroup {
 public:
  virtual ~ProcessGroup() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Sums `tensor` over ranks in place, in rank order.
  virtual absl::Status AllReduceSum(at::Tensor& tensor) = 0;
};

// One rank: every collective is the identity.
class SingleProcess final : public ProcessGroup {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  absl::Status AllReduceSum(at::Tensor&) override { return absl::OkStatus(); }
};

}  // namespace rollcall::learner
