#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "services/cli/process/child_process.h"

namespace rollcall::cli {

struct RestartOptions {
  // Waits before the 1st, 2nd, … restart in a row: 0.5 s, 1 s, 2 s, … up to this.
  absl::Duration first_delay = absl::Milliseconds(500);
  absl::Duration longest_delay = absl::Seconds(15);
  // A child that ran this long starts again at the first delay.
  absl::Duration stable_after = absl::Seconds(60);
  // Restarts in a row before the run is given up. 8 of them span about a minute: longer than a
  // passing shortage of memory or a slow disk, shorter than a person's patience.
  int most_in_a_row = 8;
};

struct ChildHistory {
  // Holds no state that a restart would lose.
  bool stateless = false;
  // Restarts in a row so far, none of which ran for stable_after.
  int restarts_in_a_row = 0;
  absl::Duration uptime = absl::ZeroDuration();
};

enum class RestartAction { kRestart, kGiveUp };

struct RestartDecision {
  RestartAction action = RestartAction::kGiveUp;
  absl::Duration delay;
  // restarts_in_a_row after this decision.
  int restarts_in_a_row = 0;
  // In words, for the user.
  std::string reason;
};

// What to do about a child that ended although nobody asked it to.
RestartDecision DecideRestart(const ChildHistory& history, const ChildExit& ended,
                              const RestartOptions& options);

// How one rank of several ended.
struct RankExit {
  std::string name;
  ChildExit ended;
};

// What to do when all ranks have ended, not all of them well: they start again together when each was
// killed by a signal, or lost another one (kExitPeerLost). A rank that failed by itself would fail
// again.
RestartDecision DecideRankRestart(const ChildHistory& history, const std::vector<RankExit>& exits,
                                  const RestartOptions& options);

}  // namespace rollcall::cli
