#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/learner/trainer/process_group.h"

namespace at {
class Tensor;
}

namespace rollcall::learner {

// How the elements of a list of tensors, laid end to end, are divided over ranks: one contiguous
// range a rank, of equal size but for 16 elements, so a tensor may belong to several ranks.
class FlatShards {
 public:
  // Elements [begin, end) of one tensor, flattened.
  struct Piece {
    size_t tensor = 0;
    int64_t begin = 0, end = 0;
  };

  // counts: elements of each tensor.
  FlatShards(std::vector<int64_t> counts, int ranks);

  int ranks() const { return static_cast<int>(bounds_.size()) - 1; }
  // Elements in the range of `rank`.
  int64_t size(int rank) const;
  // What elements [begin, end) of the range of `rank` are, in order.
  std::vector<Piece> Pieces(int rank, int64_t begin, int64_t end) const;
  std::vector<Piece> Pieces(int rank) const { return Pieces(rank, 0, size(rank)); }

 private:
  std::vector<int64_t> counts_;
  std::vector<int64_t> bounds_;  // [ranks + 1]
};

// The piece as a view, [end - begin]; the tensor must be contiguous.
at::Tensor View(const at::Tensor& tensor, const FlatShards::Piece& piece);

// Collectives over the same list of tensors on every rank. They go in windows of a bounded size, so
// what they need beside the tensors does not grow with them.

// The sum over ranks of this rank's range, [size(rank)].
absl::StatusOr<at::Tensor> ReduceScatter(ProcessGroup& group, const FlatShards& shards,
                                         std::span<const at::Tensor> tensors);
// Brings every rank's range of its `tensors` into those of all.
absl::Status AllGatherShards(ProcessGroup& group, const FlatShards& shards,
                             std::span<const at::Tensor> tensors);
// Brings every rank's `own`, [size(rank)], into `tensors` of rank 0; what the others give is unused.
absl::Status GatherShards(ProcessGroup& group, const FlatShards& shards, const at::Tensor& own,
                          std::span<const at::Tensor> tensors);
// The way back: fills `own` of every rank from `tensors` of rank 0.
absl::Status ScatterShards(ProcessGroup& group, const FlatShards& shards,
                           std::span<const at::Tensor> tensors, const at::Tensor& own);

}  // namespace rollcall::learner
