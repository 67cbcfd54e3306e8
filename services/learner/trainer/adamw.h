#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/tensor/named_tensor.h"
#include "rollcall/v1/config.pb.h"

namespace rollcall::learner {

// Whether `state` holds exactly the tensors of `expected` by name, shape and dtype.
// INVALID_ARGUMENT names the first that is missing or of another shape or dtype.
absl::Status CheckOptimizerState(const std::map<std::string, at::Tensor>& state,
                                 std::span<const tensor::NamedTensor> expected);

// AdamW (arXiv 1711.05101), equal to torch.optim.AdamW with weight decay on every parameter:
// LibTorch's fused kernel on float32 masters. A float32 parameter is its own master; one of a
// narrower dtype is rounded from its master after each update. Elementwise, so the bits do not
// depend on the number of threads. One thread owns it; LibTorch's exceptions pass through.
class AdamW {
 public:
  // Keeps references to the parameters' storage, and takes their present values as the masters.
  AdamW(std::span<const tensor::NamedTensor> parameters, const v1::OptimizerSection& options);

  // One update in place. gradients: float32, one per parameter in order.
  void Update(std::span<const at::Tensor> gradients, double lr);

  // Updates so far; the bias correction's t.
  int64_t updates() const { return updates_; }

  // All state under names for a file: "exp_avg.<parameter>", "exp_avg_sq.<parameter>",
  // "master.<parameter>" where it is not the parameter itself, and "updates" (int64, [1]). The
  // tensors share storage with the optimizer.
  std::vector<tensor::NamedTensor> State() const;

  // Whether `state` is what State() of an optimizer for these parameters wrote. INVALID_ARGUMENT
  // names the first tensor that is missing, unexpected or of another shape or dtype.
  absl::Status Check(const std::map<std::string, at::Tensor>& state) const;
  // Takes over a state that Check accepts. Parameters with masters of their own are rounded from
  // them.
  void Restore(const std::map<std::string, at::Tensor>& state);

 private:
  void RoundMasters();

  const double beta1_, beta2_, epsilon_, weight_decay_;

  std::vector<std::string> names_;
  std::vector<at::Tensor> parameters_;
  std::vector<at::Tensor> masters_;
  std::vector<at::Tensor> exp_avg_;
  std::vector<at::Tensor> exp_avg_sq_;
  int64_t updates_ = 0;
};

}  // namespace rollcall::learner
