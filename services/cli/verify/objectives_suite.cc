#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/checkpoint/parameters.h"
#include "common/tensor/torch_call.h"
#include "services/cli/verify/comparison.h"
#include "services/cli/verify/objective_case.h"
#include "services/cli/verify/suite.h"

namespace rollcall::verify {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Planner = CasePlan (*)(const ObjectiveCase&);

// shared/data/golden/README.md, "objectives".
constexpr double kFloat32Relative = 1e-5, kFloat32Floor = 1e-6;
constexpr double kFloat64 = 1e-9;
constexpr double kResidue = 1e-2;
constexpr double kPaddedDenominators = 1e-8;

const std::map<std::string, Planner>& Planners() {
  static const std::map<std::string, Planner> planners = {
      {"advantages_openrlhf", PlanAdvantagesOpenRlhf},
      {"advantages_trl", PlanAdvantagesTrl},
      {"advantages_verl", PlanAdvantagesVerl},
      {"entropy_logprob", PlanEntropyLogprob},
      {"kl", PlanKl},
      {"online_dpo", PlanOnlineDpo},
      {"policy_loss_openrlhf", PlanPolicyLossOpenRlhf},
      {"policy_loss_trl", PlanPolicyLossTrl},
      {"policy_loss_verl", PlanPolicyLossVerl},
      {"preference", PlanPreference},
      {"reward_model", PlanRewardModel},
      {"reward_shaping", PlanRewardShaping},
      {"rollout_correction", PlanRolloutCorrection},
      {"value_loss", PlanValueLoss},
  };
  return planners;
}

void Replay(const CasePlan& plan, at::ScalarType dtype, Report& report) {
  const bool wide = dtype == at::kDouble;
  CaseErrors errors(wide ? kFloat64 : plan.residue ? kResidue : kFloat32Floor);
  plan.replay(dtype, errors);
  double tolerance = wide ? kFloat64 : plan.residue ? kResidue : kFloat32Relative;
  std::string note = plan.options;
  if (wide && plan.padded_denominators) {
    tolerance = kPaddedDenominators;
    absl::StrAppend(&note, note.empty() ? "" : "; ", "the reference adds 1e-8 to denominators");
  }
  report.Compare(wide ? "float64" : "float32", errors.worst(), tolerance, note);
}

absl::Status CompareCase(Planner planner, const ObjectiveCase& golden, Report& report) {
  if (const auto raised = golden.item().find("reference_raises"); raised != golden.item().end()) {
    report.NotSupported("all", absl::StrCat("the reference itself fails: ", raised->dump()));
    return absl::OkStatus();
  }
  const CasePlan plan = planner(golden);
  if (!plan.not_supported.empty()) {
    report.NotSupported("all", plan.not_supported);
    return absl::OkStatus();
  }
  Replay(plan, at::kFloat, report);
  if (golden.HasFloat64() && !plan.float32_only) Replay(plan, at::kDouble, report);
  return absl::OkStatus();
}

absl::Status CompareGroup(const std::string& stem, const std::string& group, Report& report) {
  const auto planner = Planners().find(group);
  if (planner == Planners().end()) {
    report.Begin("objectives", group);
    report.NotSupported("all", "this build knows no group of that name");
    return absl::OkStatus();
  }
  report.Begin("objectives", group);
  ROLLCALL_ASSIGN_OR_RETURN(const Json golden, ReadGoldenJson(stem + ".json"));
  ROLLCALL_ASSIGN_OR_RETURN(const GoldenTensors tensors,
                            checkpoint::LoadTensors(stem + ".safetensors"));
  const Json cases = golden.value("cases", Json::array());
  if (cases.empty()) return absl::InvalidArgumentError("no cases");
  for (const Json& item : cases) {
    const ObjectiveCase golden_case(item, tensors);
    report.Begin("objectives", absl::StrCat(group, "/", golden_case.name()));
    // A number of another type than expected throws, too.
    const absl::Status status =
        tensor::TorchCall([&] { return CompareCase(planner->second, golden_case, report); });
    if (!status.ok()) report.Fail("case", status.ToString());
  }
  return absl::OkStatus();
}

class ObjectivesSuite : public Suite {
 public:
  std::string_view name() const override { return "objectives"; }

  absl::Status Run(const SuiteInput& input, Report& report) const override {
    const fs::path folder = fs::path(input.root) / std::string(name());
    ROLLCALL_ASSIGN_OR_RETURN(const std::vector<std::string> groups, CaseNames(folder.string()));
    for (const std::string& group : groups) {
      const absl::Status status = CompareGroup((folder / group).string(), group, report);
      if (!status.ok()) report.Fail("group", status.ToString());
    }
    return absl::OkStatus();
  }
};

}  // namespace

std::unique_ptr<Suite> MakeObjectivesSuite() { return std::make_unique<ObjectivesSuite>(); }

}  // namespace rollcall::verify
