#include "services/cli/process/restart_policy.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/peer_loss.h"
#include "common/base/shutdown.h"

namespace rollcall::cli {

RestartDecision DecideRestart(const ChildHistory& history, const ChildExit& ended,
                              const RestartOptions& options) {
  RestartDecision decision;
  if (!history.stateless) {
    decision.reason = "it holds the run's state";
    return decision;
  }
  if (ended.code == kExitUsage) {
    decision.reason = "it refused its flags or configuration";
    return decision;
  }
  const int in_a_row = history.uptime >= options.stable_after ? 0 : history.restarts_in_a_row;
  if (in_a_row >= options.most_in_a_row) {
    decision.reason = absl::StrCat("it ended ", in_a_row + 1, " times in a row");
    return decision;
  }
  decision.action = RestartAction::kRestart;
  decision.restarts_in_a_row = in_a_row + 1;
  decision.delay =
      std::min(options.longest_delay, options.first_delay * (int64_t{1} << std::min(in_a_row, 20)));
  decision.reason = absl::StrCat("restarting it in ", absl::FormatDuration(decision.delay));
  return decision;
}

RestartDecision DecideRankRestart(const ChildHistory& history, const std::vector<RankExit>& exits,
                                  const RestartOptions& options) {
  std::vector<std::string> killed;
  for (const auto& [name, ended] : exits) {
    if (ended.signal != 0) {
      killed.push_back(absl::StrCat(name, " died (", ended.Describe(), ")"));
    } else if (ended.code != kExitPeerLost && ended.code != kExitClean) {
      return {.reason = absl::StrCat(name, " failed (", ended.Describe(), ")")};
    }
  }
  if (killed.empty()) killed.push_back("the ranks lost each other");
  RestartDecision decision = DecideRestart(history, {.code = kExitPeerLost}, options);
  decision.reason = absl::StrCat(absl::StrJoin(killed, ", "), "; all ranks: ", decision.reason);
  return decision;
}

}  // namespace rollcall::cli
