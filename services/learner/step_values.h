#pragma once

#include <map>
#include <string>

#include "rollcall/v1/learner.pb.h"
#include "services/learner/trainer/trainer.h"

namespace rollcall::learner {

// The figures of one step, by the names they have in metrics.jsonl, WatchMetrics and /metrics.
using StepValues = std::map<std::string, double>;

// 0 where there is none of that name.
double ValueOf(const StepValues& values, const std::string& name);

// A training step's figures. The trainer's own stand without their prefix ("train/loss" is "loss"),
// but its speed, which leaves out the waiting, is "time/train_tokens_per_second".
StepValues ValuesOf(const StepReport& report);

// What became of every group issued so far, as groups/issued, groups/trained, groups/filtered,
// groups/in_flight and groups/dropped/<reason>.
void AddCounts(const v1::RolloutCounts& counts, StepValues& values);

}  // namespace rollcall::learner
