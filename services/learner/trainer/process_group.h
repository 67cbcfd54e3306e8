#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace at {
class Tensor;
}

namespace rollcall::learner {

// The ranks that train one model together. Collective calls are made by one thread of every rank in
// the same order and block until all have called. Whatever is summed is summed in the order of the
// ranks, so the bits depend on their number alone.
//
// A failed call is UNAVAILABLE, names this rank and the one that is lost, and IsPeerLost; every
// later one fails likewise, on every rank: the process ends, and all ranks resume together from the
// last checkpoint.
class ProcessGroup {
 public:
  virtual ~ProcessGroup() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Gives to[p] to each rank p and takes from[p] from it, this rank's own included. Both [size],
  // contiguous; from[p] has the elements and dtype of what p gives to this rank, and may be without
  // elements where p gives none.
  virtual absl::Status Exchange(const std::vector<at::Tensor>& to,
                                const std::vector<at::Tensor>& from) = 0;

  // Spent in Exchange so far, and brought to other ranks by it.
  double seconds() const { return seconds_; }
  uint64_t sent_bytes() const { return sent_bytes_; }

  // The rest is made of Exchange.

  // Sums `tensor` over ranks in place. Every rank receives all of every other's: for counts and
  // losses.
  absl::Status AllReduceSum(at::Tensor& tensor);
  // The bytes of every rank, by rank.
  absl::StatusOr<std::vector<std::string>> AllGather(std::string_view own);
  // Replaces `bytes` by rank 0's.
  absl::Status Broadcast(std::string& bytes);
  // The same for the values of a contiguous tensor.
  absl::Status Broadcast(const at::Tensor& tensor);

 protected:
  double seconds_ = 0;
  uint64_t sent_bytes_ = 0;
};

// One rank: every collective is the identity.
class SingleProcess final : public ProcessGroup {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  absl::Status Exchange(const std::vector<at::Tensor>& to,
                        const std::vector<at::Tensor>& from) override;
};

}  // namespace rollcall::learner
