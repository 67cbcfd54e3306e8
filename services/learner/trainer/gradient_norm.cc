#include "services/learner/trainer/gradient_norm.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/model/parallel.h"

namespace rollcall::learner {
namespace {

// Elements in one partial sum: 64 KiB of float32, large enough to be worth a task.
constexpr int64_t kRange = 16384;

double SquaresOf(const at::Tensor& gradient) {
  const at::Tensor host = gradient.cpu().contiguous();
  const float* data = host.const_data_ptr<float>();
  const int64_t count = host.numel();
  const int64_t ranges = (count + kRange - 1) / kRange;
  std::vector<double> partial(static_cast<size_t>(ranges));
  model::ParallelTasks(ranges, /*scratch_floats=*/0, /*work=*/count, [&](int64_t range, float*) {
    double sum = 0;
    const int64_t end = std::min(count, (range + 1) * kRange);
    for (int64_t i = range * kRange; i < end; ++i) {
      sum += static_cast<double>(data[i]) * static_cast<double>(data[i]);
    }
    partial[static_cast<size_t>(range)] = sum;
  });
  double sum = 0;
  for (const double value : partial) sum += value;
  return sum;
}

}  // namespace

double SumOfSquares(std::span<const at::Tensor> gradients) {
  double sum = 0;
  for (const at::Tensor& gradient : gradients) sum += SquaresOf(gradient);
  return sum;
}

double GlobalNorm(std::span<const at::Tensor> gradients) {
  return std::sqrt(SumOfSquares(gradients));
}

void ClipToNorm(std::span<const at::Tensor> gradients, double norm, double max_norm) {
  if (max_norm <= 0) return;
  const double scale = max_norm / (norm + 1e-6);
  if (scale >= 1) return;
  for (const at::Tensor& gradient : gradients) gradient.mul_(scale);
}

}  // namespace rollcall::learner
