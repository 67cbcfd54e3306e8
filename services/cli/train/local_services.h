#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "rollcall/v1/config.pb.h"
#include "services/cli/process/supervisor.h"
#include "services/cli/train/run_layout.h"

namespace rollcall::cli {

// A run's services as child processes of this machine.
struct LocalServices {
  // The configuration with every address filled in; what the children read. The learner's is
  // learner.listen.
  v1::RunConfig config;
  std::vector<ServiceSpec> specs;
};

// Decides which services a run needs and how each is started. Pure. Services whose address the
// configuration gives already are used where they are; the others become children of this machine,
// on Unix sockets:
//   rl    generators, reward and a server for each of its reward models (without verifiers none),
//         reference (where the objective has a KL term), learner
//   sft   learner; generators and reward too where held-out prompts are to be evaluated
//   eval  generators, reward, learner
//   reward_model, simpo, orpo   learner
//   dpo, kto   reference, learner
// Of learner.ranks above 1 each further rank is a child too (learner-1, …), where something is
// trained; learner.rendezvous must be filled in then.
// `binaries` is the folder of the service binaries.
LocalServices PlanLocalServices(const v1::RunConfig& config, const RunLayout& layout,
                                const std::string& binaries);

// Whether a run's learner has several ranks.
bool HasRanks(const v1::RunConfig& config);

// "127.0.0.1:<port>" with a port that was free a moment ago.
absl::StatusOr<std::string> FreeLoopbackAddress();

// The folder of this program's own binary, where the services lie too.
absl::StatusOr<std::string> OwnFolder();

}  // namespace rollcall::cli
