#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "rollcall/v1/learner.pb.h"

namespace rollcall::learner {

// The books on every issued group. Invariant, checked on every counts() and exported as metrics:
//   issued = trained + filtered + sum of dropped + in flight
// where each side is counted on its own. Group ids are issued in order. Not thread-safe.
//
// A checkpoint holds the books up to its horizon, the first group that is not settled by its step:
// groups beyond it are issued again after a resume.
class GroupAccounts {
 public:
  // Goes on from a checkpoint: `settled` has in_flight 0 and issued == horizon.
  explicit GroupAccounts(uint64_t horizon = 0, v1::RolloutCounts settled = {});

  // Every transition of one group, in flight to settled. INTERNAL, and nothing changes: the group
  // is not in flight (issued twice, settled twice, or never issued).
  absl::Status Issue(uint64_t group_id);
  absl::Status Train(uint64_t group_id);
  absl::Status Filter(uint64_t group_id);
  absl::Status Drop(uint64_t group_id, std::string_view reason);

  // Folds the groups below `group_id`, all of which must be settled, into the checkpoint's books.
  absl::Status AdvanceHorizon(uint64_t group_id);

  uint64_t next_group_id() const { return next_; }
  uint64_t in_flight() const;

  const v1::RolloutCounts& counts() const { return counts_; }
  const v1::RolloutCounts& settled() const { return settled_; }

  // INTERNAL with both sides when the books do not balance.
  absl::Status CheckBalance() const;

 private:
  enum class State { kInFlight, kTrained, kFiltered, kDropped };
  struct Entry {
    State state = State::kInFlight;
    std::string reason;
  };

  absl::StatusOr<Entry*> InFlight(uint64_t group_id);
  static void Count(const Entry& entry, v1::RolloutCounts& counts);

  uint64_t next_;
  uint64_t horizon_;
  std::map<uint64_t, Entry> entries_;  // from horizon_ on
  v1::RolloutCounts settled_;          // below horizon_
  v1::RolloutCounts counts_;           // all
};

}  // namespace rollcall::learner
