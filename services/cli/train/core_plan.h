#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/machine_limits.h"
#include "rollcall/v1/config.pb.h"
#include "services/cli/process/supervisor.h"

namespace rollcall::cli {

// What one service of a local run may use.
struct CoreShare {
  std::string service;  // "generator-0", "reference", "learner"
  uint32_t threads = 0;
  // The CPUs it is bound to; empty: all of this process's, where a CPU quota says that others use
  // them too.
  std::vector<int> cores;
};

// Divides the cores of this machine between the compute services of a run, so that those that work
// at once have cores of their own:
//   - generators, reference and reward models work at once; the learner takes turns with them, and has all cores
//     when it trains, unless learner.max_staleness lets it train while they sample;
//   - of stages dpo and kto the reference scores the next batch while the learner trains, on cores of its own where there are
//     at least four;
//   - learner and generators (together) get three parts, reference and reward models one each:
//     scoring a token is one row of a long prefill, sampling it a row of a decode, which reads all
//     weights for few rows;
//   - ranks of the learner share its part;
//   - a `threads` of the configuration stands, and the others share what is left;
//   - where there are fewer cores than services, several get the same core.
// Services that do not compute (reward) are left alone. Pure.
std::vector<CoreShare> PlanCores(const v1::RunConfig& config,
                                 const std::vector<std::string>& services,
                                 const MachineLimits& limits);

// Tells each service its threads and binds it to its cores.
void ApplyCorePlan(const std::vector<CoreShare>& plan, std::vector<ServiceSpec>* specs);

// "learner 0-3, generator-0 0-2, reference 3", for the log.
std::string Describe(const std::vector<CoreShare>& plan);

}  // namespace rollcall::cli
