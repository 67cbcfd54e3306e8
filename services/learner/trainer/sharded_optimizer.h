#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/tensor/named_tensor.h"
#include "rollcall/v1/config.pb.h"
#include "services/learner/trainer/adamw.h"
#include "services/learner/trainer/flat_shards.h"
#include "services/learner/trainer/process_group.h"

namespace rollcall::learner {

// AdamW whose state is divided over the ranks (ZeRO stage 1, arXiv 1910.02054, section 5.1): each
// has masters and moments of its FlatShards range of the parameters alone, updates them with the sum
// of all ranks' gradients, and gives the new weights to the others. On one rank it is AdamW, bit for
// bit. Every method that returns a status is collective, except Check. One thread owns it; LibTorch's
// exceptions pass through.
class ShardedOptimizer {
 public:
  // Keeps references to the parameters' storage, which is contiguous and holds the same values on
  // every rank, and to `group`.
  ShardedOptimizer(std::span<const tensor::NamedTensor> parameters,
                   const v1::OptimizerSection& options, ProcessGroup* group);

  // The gradients that the parameters have accumulated, zeros where there are none; summed over
  // ranks: this rank's pieces of them, in order, float32.
  absl::StatusOr<std::vector<at::Tensor>> SummedGradients() const;
  // One update of this rank's pieces, in place; `gradients` as SummedGradients gave them. Then every
  // rank has all new weights.
  absl::Status Update(std::span<const at::Tensor> gradients, double lr);

  int64_t updates() const { return own_.updates(); }
  ProcessGroup& group() const { return *group_; }

  // This rank's part, as AdamW::State gives it; on one rank that is all.
  std::vector<tensor::NamedTensor> State() const { return own_.State(); }

  // All of it at rank 0, equal to State() of one rank; nothing at the others.
  absl::StatusOr<std::vector<tensor::NamedTensor>> GatherState() const;
  // Whether `state` is what GatherState gave for these parameters. INVALID_ARGUMENT names the first
  // tensor that is missing, unexpected or of another shape or dtype.
  absl::Status Check(const std::map<std::string, at::Tensor>& state) const;
  // Takes this rank's part of a state that Check accepts.
  void Restore(const std::map<std::string, at::Tensor>& state);
  // Gives every rank its part of the state of rank 0, which passes it; the others pass nothing.
  absl::Status Scatter(const std::map<std::string, at::Tensor>& state);

 private:
  // This rank's values of one kind of state ("exp_avg."), laid end to end.
  at::Tensor OwnFlat(const std::string& kind) const;
  std::vector<std::string> Kinds() const;
  // Whether a parameter's master is another tensor than itself.
  static bool HasMaster(const at::Tensor& parameter) {
    return parameter.scalar_type() != at::kFloat;
  }

  ProcessGroup* const group_;
  std::vector<tensor::NamedTensor> parameters_;
  FlatShards shards_;
  std::vector<FlatShards::Piece> pieces_;
  AdamW own_;
};

}  // namespace rollcall::learner
