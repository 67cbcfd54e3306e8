#pragma once

// Ranks as real processes, for tests.

#include <functional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "services/learner/trainer/process_group.h"

namespace rollcall::learner::testing {

// "127.0.0.1:<port>" with a port that was free a moment ago.
std::string FreeLoopbackAddress();

// How one rank's process ended.
struct RankResult {
  std::string returned;
  int signal = 0;
};

// Forks a process a rank that joins a group over Gloo on the loopback interface (of one rank:
// SingleProcess), runs `body` and hands back what it returns. The calling process must not have used
// LibTorch, whose threads a fork leaves behind. `timeout`: GlooOptions::timeout.
std::vector<RankResult> RunRanks(int ranks, const std::function<std::string(ProcessGroup&)>& body,
                                 absl::Duration timeout = absl::Seconds(60));

}  // namespace rollcall::learner::testing
