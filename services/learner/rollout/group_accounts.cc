#include "services/learner/rollout/group_accounts.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace rollcall::learner {

GroupAccounts::GroupAccounts(uint64_t horizon, v1::RolloutCounts settled)
    : next_(horizon), horizon_(horizon), settled_(std::move(settled)), counts_(settled_) {}

absl::Status GroupAccounts::Issue(uint64_t group_id) {
  if (group_id != next_) {
    return absl::InternalError(
        absl::StrCat("group ", group_id, " was issued out of order; the next is ", next_));
  }
  ++next_;
  entries_[group_id] = Entry{};
  counts_.set_issued(counts_.issued() + 1);
  counts_.set_in_flight(counts_.in_flight() + 1);
  return absl::OkStatus();
}

absl::StatusOr<GroupAccounts::Entry*> GroupAccounts::InFlight(uint64_t group_id) {
  const auto found = entries_.find(group_id);
  if (found == entries_.end() || found->second.state != State::kInFlight) {
    return absl::InternalError(absl::StrCat("group ", group_id, " is not in flight"));
  }
  return &found->second;
}

void GroupAccounts::Count(const Entry& entry, v1::RolloutCounts& counts) {
  switch (entry.state) {
    case State::kInFlight:
      counts.set_in_flight(counts.in_flight() + 1);
      break;
    case State::kTrained:
      counts.set_trained(counts.trained() + 1);
      break;
    case State::kFiltered:
      counts.set_filtered(counts.filtered() + 1);
      break;
    case State::kDropped:
      ++(*counts.mutable_dropped())[entry.reason];
      break;
  }
}

absl::Status GroupAccounts::Train(uint64_t group_id) {
  ROLLCALL_ASSIGN_OR_RETURN(Entry * entry, InFlight(group_id));
  entry->state = State::kTrained;
  counts_.set_in_flight(counts_.in_flight() - 1);
  Count(*entry, counts_);
  return absl::OkStatus();
}

absl::Status GroupAccounts::Filter(uint64_t group_id) {
  ROLLCALL_ASSIGN_OR_RETURN(Entry * entry, InFlight(group_id));
  entry->state = State::kFiltered;
  counts_.set_in_flight(counts_.in_flight() - 1);
  Count(*entry, counts_);
  return absl::OkStatus();
}

absl::Status GroupAccounts::Drop(uint64_t group_id, std::string_view reason) {
  ROLLCALL_ASSIGN_OR_RETURN(Entry * entry, InFlight(group_id));
  entry->state = State::kDropped;
  entry->reason = std::string(reason);
  counts_.set_in_flight(counts_.in_flight() - 1);
  Count(*entry, counts_);
  return absl::OkStatus();
}

absl::Status GroupAccounts::AdvanceHorizon(uint64_t group_id) {
  const auto end = entries_.lower_bound(group_id);
  for (auto it = entries_.begin(); it != end; ++it) {
    if (it->second.state == State::kInFlight) {
      return absl::InternalError(
          absl::StrCat("group ", it->first, " is still in flight below ", group_id));
    }
  }
  for (auto it = entries_.begin(); it != end; it = entries_.erase(it)) {
    Count(it->second, settled_);
    settled_.set_issued(settled_.issued() + 1);
  }
  horizon_ = group_id;
  return absl::OkStatus();
}

uint64_t GroupAccounts::in_flight() const { return counts_.in_flight(); }

absl::Status GroupAccounts::CheckBalance() const {
  v1::RolloutCounts recounted = settled_;
  for (const auto& [id, entry] : entries_) {
    recounted.set_issued(recounted.issued() + 1);
    Count(entry, recounted);
  }
  const auto ended = [](const v1::RolloutCounts& counts) {
    uint64_t sum = counts.trained() + counts.filtered() + counts.in_flight();
    for (const auto& [reason, count] : counts.dropped()) sum += count;
    return sum;
  };
  if (counts_.issued() != next_ || ended(counts_) != counts_.issued() ||
      ended(recounted) != counts_.issued() || recounted.issued() != counts_.issued() ||
      recounted.in_flight() != counts_.in_flight()) {
    return absl::InternalError(
        absl::StrCat("issued ", counts_.issued(), " groups, but ", ended(counts_),
                     " are accounted for (recounted: ", ended(recounted), ")"));
  }
  return absl::OkStatus();
}

}  // namespace rollcall::learner
