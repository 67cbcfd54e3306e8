#include "common/rpc/liveness.h"

#include <utility>

#include "common/base/logging.h"

namespace rollcall::rpc {

LivenessWatch::LivenessWatch(std::shared_ptr<const Progress> progress, absl::Duration timeout,
                             std::function<void(bool)> report, Clock* clock)
    : progress_(std::move(progress)),
      timeout_(timeout),
      report_(std::move(report)),
      clock_(clock),
      thread_([this] { Run(); }) {}

LivenessWatch::~LivenessWatch() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void LivenessWatch::Run() {
  bool live = true;
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (clock_->AwaitWithDeadline(&mutex_, absl::Condition(&stopping_),
                                    clock_->Now() + timeout_ / 8)) {
        return;
      }
    }
    const absl::Duration still = progress_->StandsStillFor();
    if ((still < timeout_) == live) continue;
    live = !live;
    if (live) {
      LogInfo("work goes on", {});
    } else {
      LogError("work stands still; liveness probes are told so", {{"for", still}});
    }
    report_(live);
  }
}

}  // namespace rollcall::rpc
