#include "services/cli/verify/objective_case.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace rollcall::verify {

bool ObjectiveCase::HasInput(const std::string& input) const {
  return tensors_.contains(name() + "/in/" + input);
}

bool ObjectiveCase::HasFloat64() const {
  const std::string prefix = name() + "/out64/";
  const auto first = tensors_.lower_bound(prefix);
  if (first != tensors_.end() && first->first.rfind(prefix, 0) == 0) return true;
  const auto expected = item_.find("expected64");
  return expected != item_.end() && expected->is_object() && !expected->empty();
}

at::Tensor ObjectiveCase::In(const std::string& input, at::ScalarType dtype) const {
  const auto found = tensors_.find(name() + "/in/" + input);
  TORCH_CHECK(found != tensors_.end(), "input '", input, "' is not there");
  return found->second.to(dtype, /*non_blocking=*/false, /*copy=*/true);
}

at::Tensor ObjectiveCase::Out(const std::string& output, at::ScalarType dtype) const {
  const std::string key = name() + (dtype == at::kDouble ? "/out64/" : "/out/") + output;
  const auto found = tensors_.find(key);
  TORCH_CHECK(found != tensors_.end(), "tensor '", key, "' is not there");
  return found->second;
}

double ObjectiveCase::Expected(const std::string& number, at::ScalarType dtype) const {
  const auto section = item_.find(dtype == at::kDouble ? "expected64" : "expected");
  if (section == item_.end() || !section->is_object()) return std::nan("");
  const auto value = section->find(number);
  if (value == section->end()) return std::nan("");
  if (value->is_number()) return value->get<double>();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (*value == "Infinity") return kInfinity;
  return *value == "-Infinity" ? -kInfinity : std::nan("");
}

void CaseErrors::Number(double actual, double expected) {
  worst_ = std::max(worst_, RelativeBeyond(actual, expected, floor_));
}

void CaseErrors::Tensor(const at::Tensor& actual, const at::Tensor& expected) {
  if (actual.sizes() != expected.sizes()) {
    worst_ = std::numeric_limits<double>::infinity();
    return;
  }
  const at::Tensor a = actual.detach().to(at::kDouble).contiguous();
  const at::Tensor e = expected.to(at::kDouble).contiguous();
  for (int64_t i = 0; i < a.numel(); ++i) {
    Number(a.const_data_ptr<double>()[i], e.const_data_ptr<double>()[i]);
  }
}

CasePlan NotSupported(std::string reason) {
  CasePlan plan;
  plan.not_supported = std::move(reason);
  return plan;
}

PackedTokens::PackedTokens(const ObjectiveCase& golden, const std::string& mask_name)
    : mask(golden.In(mask_name, at::kBool)), rows(mask.size(0)), width(mask.size(1)) {
  std::vector<int64_t> owners;
  const at::Tensor dense = mask.contiguous();
  for (int64_t row = 0; row < rows; ++row) {
    int64_t count = 0;
    for (int64_t i = 0; i < width; ++i) {
      if (!dense.const_data_ptr<bool>()[row * width + i]) continue;
      ++count;
      owners.push_back(row);
    }
    counts.push_back(count);
    row_lengths.push_back(width);
  }
  sequence_of = at::tensor(owners, at::kLong);
  denominators = learner::CountDenominators(counts);
}

at::Tensor PackedTokens::Pack(const at::Tensor& rectangle) const {
  return rectangle.expand_as(mask).masked_select(mask);
}

at::Tensor Aggregate(const at::Tensor& losses, v1::LossAggregation aggregation,
                     const PackedTokens& tokens, const learner::LossDenominators& denominators) {
  const std::vector<double> weights =
      learner::ExactTokenWeights(aggregation, tokens.counts, denominators);
  return losses.mul(at::tensor(weights, at::kDouble).to(losses.scalar_type())).sum();
}

}  // namespace rollcall::verify
