#include "services/learner/step_values.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace rollcall::learner {

double ValueOf(const StepValues& values, const std::string& name) {
  const auto found = values.find(name);
  return found == values.end() ? 0 : found->second;
}

StepValues ValuesOf(const StepReport& report) {
  StepValues values;
  for (const auto& [name, value] : report.metrics) {
    if (name == "train/tokens_per_second") {
      values["time/train_tokens_per_second"] = value;
    } else if (absl::StartsWith(name, "train/")) {
      values[name.substr(sizeof("train/") - 1)] = value;
    } else {
      values[name] = value;
    }
  }
  return values;
}

void AddCounts(const v1::RolloutCounts& counts, StepValues& values) {
  values["groups/issued"] = static_cast<double>(counts.issued());
  values["groups/trained"] = static_cast<double>(counts.trained());
  values["groups/filtered"] = static_cast<double>(counts.filtered());
  values["groups/in_flight"] = static_cast<double>(counts.in_flight());
  for (const auto& [reason, count] : counts.dropped()) {
    values[absl::StrCat("groups/dropped/", reason)] = static_cast<double>(count);
  }
}

}  // namespace rollcall::learner
