#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/shutdown.h"
#include "rollcall/v1/config.pb.h"
#include "rollcall/v1/learner.pb.h"

namespace rollcall::cli {

struct SessionOptions {
  // No live line and no notices on stdout; errors still come back.
  bool quiet = false;
  // In front of the live line: "SFT ".
  std::string label;
  // Told of every finished step, in order, on the calling thread.
  std::function<void(const v1::StepMetrics&)> on_metrics;
};

struct SessionResult {
  std::string run_dir;
  // Ended because the user asked; what was trained is in the newest checkpoint.
  bool interrupted = false;
};

// Runs one configuration to its end with every service that it does not find elsewhere as a child
// process, and shows how it goes. Blocks; call from the main thread. A first interrupt drains (the
// learner saves a checkpoint), a second kills. FAILED_PRECONDITION when the folder is in use or a
// service died for good; INTERNAL when the learner failed, with the last lines of its log.
absl::StatusOr<SessionResult> RunLocally(const v1::RunConfig& config, const SessionOptions& options,
                                         Shutdown& shutdown);

}  // namespace rollcall::cli
