#pragma once

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace rollcall::verify {

using GoldenTensors = std::map<std::string, at::Tensor>;

// A JSON file of golden numbers; errors name the file.
absl::StatusOr<nlohmann::json> ReadGoldenJson(const std::string& path);

// A tensor by its name. NOT_FOUND names it.
absl::StatusOr<at::Tensor> Golden(const GoldenTensors& tensors, const std::string& name);

// Errors below are never NaN: what cannot be compared (a missing number read as NaN, an infinity on
// one side) is an infinite error, so that taking the maximum never hides it. Two NaNs, and two
// equal infinities, agree.

// |actual - expected|.
double AbsoluteDifference(double actual, double expected);

// |actual - expected| / |expected|; 0 where both are equal.
double RelativeDifference(double actual, double expected);

// The error of an absolute-plus-relative tolerance, as a relative number: the part of |actual -
// expected| beyond `absolute`, divided by |expected|.
double RelativeBeyond(double actual, double expected, double absolute);

// Largest AbsoluteDifference of two tensors; infinite where the shapes differ. Empty tensors: 0.
double LargestDifference(const at::Tensor& actual, const at::Tensor& expected);

// Number of elements that differ, of integer tensors; infinite where the shapes differ.
double CountUnequal(const at::Tensor& actual, const at::Tensor& expected);

// Summary of one tensor as the golden files hold it: {"l2", "sampled_flat_index", "sampled_value"}.
struct TensorSummary {
  double l2 = 0;
  std::vector<int64_t> indices;
  std::vector<double> values;
};
absl::StatusOr<TensorSummary> SummaryFromJson(const nlohmann::json& json);

// The same summary of a tensor of ours, at the same places. INVALID_ARGUMENT: a place outside the
// tensor.
absl::StatusOr<TensorSummary> Summarize(const at::Tensor& tensor,
                                        const std::vector<int64_t>& indices);

}  // namespace rollcall::verify
