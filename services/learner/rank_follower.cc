#include "services/learner/rank_follower.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/logging.h"
#include "common/base/peer_loss.h"
#include "common/base/status.h"
#include "services/learner/batching/batch_bytes.h"
#include "services/learner/initial_model.h"
#include "services/learner/rank_link.h"

namespace rollcall::learner {

absl::Status RankFollower::Run() {
  ROLLCALL_RETURN_IF_ERROR(Join());
  while (true) {
    ROLLCALL_ASSIGN_OR_RETURN(const bool go_on, Follow());
    if (!go_on) return absl::OkStatus();
  }
}

absl::Status RankFollower::Join() {
  ROLLCALL_ASSIGN_OR_RETURN(model::Decoder decoder, LoadInitialModel(config_));
  ROLLCALL_ASSIGN_OR_RETURN(TrainerCompanions companions,
                            LoadCompanions(config_, decoder.config()));
  ROLLCALL_ASSIGN_OR_RETURN(group_, OpenProcessGroup(config_));
  ROLLCALL_ASSIGN_OR_RETURN(trainer_, Trainer::Create(config_, std::move(decoder), group_.get(),
                                                      Clock::Real(), std::move(companions)));
  ROLLCALL_RETURN_IF_ERROR(trainer_->ShareState(""));
  metrics_->step.Set(static_cast<double>(trainer_->step()));
  LogInfo("following rank 0", {{"rank", group_->rank()}, {"step", trainer_->step()}});
  return absl::OkStatus();
}

absl::StatusOr<bool> RankFollower::Follow() {
  ROLLCALL_ASSIGN_OR_RETURN(const RankOrder order, NextOrder(*group_, stopping_));
  switch (order.command) {
    case RankCommand::kWait:
      return true;
    case RankCommand::kTrain:
      ROLLCALL_RETURN_IF_ERROR(Train(order.payload));
      return true;
    case RankCommand::kSave:
      ROLLCALL_RETURN_IF_ERROR(trainer_->HandOverState());
      return true;
    case RankCommand::kEnd:
      if (order.payload.empty()) return false;
      return PeerLostError(absl::StrCat("rank 0 ended the run: ", order.payload));
  }
  return absl::DataLossError("rank 0 sent an unknown command");
}

absl::Status RankFollower::Train(const std::string& bytes) {
  ROLLCALL_ASSIGN_OR_RETURN(TrainBatch batch, DecodeBatch(bytes));
  const absl::Time start = absl::Now();
  ROLLCALL_ASSIGN_OR_RETURN(const StepReport report, trainer_->TrainStep(std::move(batch)));
  const absl::Duration duration = absl::Now() - start;
  metrics_->step.Set(static_cast<double>(report.step));
  metrics_->step_seconds.Observe(absl::ToDoubleSeconds(duration));
  metrics_->last_step_time.SetToCurrentTime();
  LogInfo("step", {{"step", report.step},
                   {"of", config_.learner().steps()},
                   {"seconds", absl::ToDoubleSeconds(duration)}});
  return absl::OkStatus();
}

}  // namespace rollcall::learner
