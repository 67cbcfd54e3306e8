#include "services/cli/verify/comparison.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"

namespace rollcall::verify {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

at::Tensor HostDoubles(const at::Tensor& tensor) {
  return tensor.detach().cpu().to(at::kDouble).contiguous();
}

}  // namespace

absl::StatusOr<nlohmann::json> ReadGoldenJson(const std::string& path) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  nlohmann::json value = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!value.is_object())
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a JSON object"));
  return value;
}

absl::StatusOr<at::Tensor> Golden(const GoldenTensors& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  if (found == tensors.end())
    return absl::NotFoundError(absl::StrCat("tensor '", name, "' is not there"));
  return found->second;
}

double AbsoluteDifference(double actual, double expected) {
  if (actual == expected || (std::isnan(actual) && std::isnan(expected))) return 0;
  const double difference = std::abs(actual - expected);
  return std::isnan(difference) ? kInfinity : difference;
}

double RelativeDifference(double actual, double expected) {
  return RelativeBeyond(actual, expected, 0);
}

double RelativeBeyond(double actual, double expected, double absolute) {
  const double beyond = AbsoluteDifference(actual, expected) - absolute;
  if (beyond <= 0) return 0;
  const double relative = beyond / std::abs(expected);  // infinite where zero is expected
  return std::isnan(relative) ? kInfinity : relative;
}

double LargestDifference(const at::Tensor& actual, const at::Tensor& expected) {
  if (actual.sizes() != expected.sizes()) return kInfinity;
  const at::Tensor a = HostDoubles(actual);
  const at::Tensor b = HostDoubles(expected);
  double largest = 0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    largest = std::max(
        largest, AbsoluteDifference(a.const_data_ptr<double>()[i], b.const_data_ptr<double>()[i]));
  }
  return largest;
}

double CountUnequal(const at::Tensor& actual, const at::Tensor& expected) {
  if (actual.sizes() != expected.sizes()) return kInfinity;
  return static_cast<double>(actual.cpu().ne(expected.cpu()).sum().item<int64_t>());
}

absl::StatusOr<TensorSummary> SummaryFromJson(const nlohmann::json& json) {
  const auto field = [&](const char* name) {
    return json.is_object() ? json.value(name, nlohmann::json()) : json;
  };
  const nlohmann::json l2 = field("l2"), indices = field("sampled_flat_index"),
                       values = field("sampled_value");
  if (!l2.is_number() || !indices.is_array() || !values.is_array() ||
      indices.size() != values.size()) {
    return absl::InvalidArgumentError(
        "not a summary with l2, sampled_flat_index and sampled_value");
  }
  TensorSummary summary{.l2 = l2.get<double>(), .indices = {}, .values = {}};
  for (size_t i = 0; i < indices.size(); ++i) {
    if (!indices[i].is_number_integer() || !values[i].is_number()) {
      return absl::InvalidArgumentError("sampled_flat_index and sampled_value must hold numbers");
    }
    summary.indices.push_back(indices[i].get<int64_t>());
    summary.values.push_back(values[i].get<double>());
  }
  return summary;
}

absl::StatusOr<TensorSummary> Summarize(const at::Tensor& tensor,
                                        const std::vector<int64_t>& indices) {
  const at::Tensor values = HostDoubles(tensor);
  const double* const data = values.const_data_ptr<double>();
  TensorSummary summary{.l2 = 0, .indices = indices, .values = {}};
  for (const int64_t index : indices) {
    if (index < 0 || index >= values.numel()) {
      return absl::InvalidArgumentError(
          absl::StrCat("place ", index, " of ", values.numel(), " elements"));
    }
    summary.values.push_back(data[index]);
  }
  for (int64_t i = 0; i < values.numel(); ++i) summary.l2 += data[i] * data[i];
  summary.l2 = std::sqrt(summary.l2);
  return summary;
}

}  // namespace rollcall::verify
