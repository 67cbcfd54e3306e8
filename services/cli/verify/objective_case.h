#pragma once

#include <ATen/core/TensorBody.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "rollcall/v1/config.pb.h"
#include "services/cli/verify/comparison.h"
#include "services/learner/algorithms/aggregation.h"

// Cases of shared/data/golden/README.md, section "objectives": what a reference implementation's
// own functions computed from given tensors.
namespace rollcall::verify {

// One case of a group. Refers to the group's JSON and tensors, which must outlive it.
class ObjectiveCase {
 public:
  ObjectiveCase(const nlohmann::json& item, const GoldenTensors& tensors)
      : item_(item), tensors_(tensors) {}

  std::string name() const { return item_.value("name", ""); }
  // The batch or reward set that it runs on: its name up to the first dot.
  std::string set() const { return name().substr(0, name().find('.')); }
  std::string reference() const { return item_.value("reference", ""); }
  nlohmann::json hyper() const { return item_.value("hyper", nlohmann::json::object()); }
  const nlohmann::json& item() const { return item_; }

  bool HasInput(const std::string& input) const;
  bool HasFloat64() const;
  // A copy of the input in `dtype`. Throws c10::Error where the file has none.
  at::Tensor In(const std::string& input, at::ScalarType dtype) const;
  // The result of the reference in that precision.
  at::Tensor Out(const std::string& output, at::ScalarType dtype) const;
  // NaN where the reference gave no such number.
  double Expected(const std::string& number, at::ScalarType dtype) const;

 private:
  const nlohmann::json& item_;
  const GoldenTensors& tensors_;
};

// The largest error of the numbers compared so far, relative beyond an absolute floor.
class CaseErrors {
 public:
  explicit CaseErrors(double floor) : floor_(floor) {}
  void Number(double actual, double expected);
  // Element by element; another shape is an infinite error.
  void Tensor(const at::Tensor& actual, const at::Tensor& expected);
  double worst() const { return worst_; }

 private:
  const double floor_;
  double worst_ = 0;
};

// What becomes of a case.
struct CasePlan {
  // Why this build has nothing to compare it with; empty: `replay` compares.
  std::string not_supported;
  // The options of ours that give the reference's numbers, where references differ.
  std::string options;
  std::function<void(at::ScalarType dtype, CaseErrors& errors)> replay;
  // The float32 comparison measures the residue of float32 itself: to 1e-2 (README).
  bool residue = false;
  // The reference adds 1e-8 to its denominators, which shows at 1e-9.
  bool padded_denominators = false;
  bool float32_only = false;
};

CasePlan NotSupported(std::string reason);

CasePlan PlanPolicyLossVerl(const ObjectiveCase& golden);
CasePlan PlanPolicyLossTrl(const ObjectiveCase& golden);
CasePlan PlanPolicyLossOpenRlhf(const ObjectiveCase& golden);
CasePlan PlanKl(const ObjectiveCase& golden);
CasePlan PlanValueLoss(const ObjectiveCase& golden);
CasePlan PlanEntropyLogprob(const ObjectiveCase& golden);
CasePlan PlanRolloutCorrection(const ObjectiveCase& golden);
CasePlan PlanAdvantagesVerl(const ObjectiveCase& golden);
CasePlan PlanAdvantagesTrl(const ObjectiveCase& golden);
CasePlan PlanAdvantagesOpenRlhf(const ObjectiveCase& golden);
CasePlan PlanRewardShaping(const ObjectiveCase& golden);
CasePlan PlanPreference(const ObjectiveCase& golden);
CasePlan PlanOnlineDpo(const ObjectiveCase& golden);
CasePlan PlanRewardModel(const ObjectiveCase& golden);

// A [rows, width] batch and the tokens of it that count, laid end to end.
struct PackedTokens {
  PackedTokens(const ObjectiveCase& golden, const std::string& mask_name);

  // The entries of a [rows, width] (or [rows, 1]) tensor that count: [tokens].
  at::Tensor Pack(const at::Tensor& rectangle) const;

  at::Tensor mask;  // [rows, width], bool
  int64_t rows = 0, width = 0;
  std::vector<int64_t> counts;       // [rows]
  at::Tensor sequence_of;            // [tokens], int64
  std::vector<int64_t> row_lengths;  // [rows], each `width`
  learner::LossDenominators denominators;
};

// sum(losses * weights) with weights in the losses' own precision.
at::Tensor Aggregate(const at::Tensor& losses, v1::LossAggregation aggregation,
                     const PackedTokens& tokens, const learner::LossDenominators& denominators);

}  // namespace rollcall::verify
