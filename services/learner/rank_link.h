#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "rollcall/v1/config.pb.h"
#include "services/learner/run_control.h"
#include "services/learner/trainer/process_group.h"

namespace rollcall::learner {

// Ranks that train a run: learner.ranks, one where nothing is trained.
uint32_t RanksOf(const v1::RunConfig& config);

// The group that the learner section describes; of one rank SingleProcess. Blocks until all ranks are
// there, rpc.connect_timeout at most; afterwards a rank waits for another for at most
// learner.stall_timeout. Statuses of ConnectGloo.
absl::StatusOr<std::unique_ptr<ProcessGroup>> OpenProcessGroup(const v1::RunConfig& config);

// What rank 0 has the others do next.
enum class RankCommand : char {
  kWait = 'w',   // nothing yet; says that rank 0 lives
  kTrain = 't',  // Trainer::TrainStep; the batch's bytes follow
  kSave = 's',   // Trainer::HandOverState
  kEnd = 'e',    // the run is over; why it failed follows, nothing where it did not
};

// Rank 0's side. Between commands, which may be long (rollouts, evaluation, a pause), a thread tells
// the others now and then that rank 0 lives, and finds out whether they do.
class RankLeader {
 public:
  // `control` is told to stop when another rank was asked to, and to fail when one is lost. Both
  // must outlive this. `heartbeat`: between two signs of life.
  RankLeader(ProcessGroup* group, RunControl* control, absl::Duration heartbeat = absl::Seconds(2));
  ~RankLeader();

  RankLeader(const RankLeader&) = delete;
  RankLeader& operator=(const RankLeader&) = delete;

  // Tells every rank. Until Done the calling thread alone uses the group; after an error it has no
  // more use. Statuses of ProcessGroup.
  absl::Status Begin(RankCommand command, std::string_view payload = "")
      ABSL_LOCKS_EXCLUDED(mutex_);
  // The command went well on this rank.
  void Done() ABSL_LOCKS_EXCLUDED(mutex_);
  // The run is over, with this failure or "". Says nothing in the middle of a command that failed on
  // this rank: the others are in that command, and learn it from the end of this process.
  absl::Status End(std::string_view failure) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void SignOfLife() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Send(RankCommand command, std::string_view payload)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  ProcessGroup* const group_;
  RunControl* const control_;
  const absl::Duration heartbeat_;

  // Held through a collective, so that two threads never use the group at once.
  absl::Mutex mutex_;
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // Last: it uses the fields above.
};

// Another rank's side: waits for the next command. `stopping`: this rank was asked to stop, which
// rank 0 is told. Collective with Begin.
struct RankOrder {
  RankCommand command = RankCommand::kWait;
  std::string payload;
};
absl::StatusOr<RankOrder> NextOrder(ProcessGroup& group, bool stopping);

}  // namespace rollcall::learner
