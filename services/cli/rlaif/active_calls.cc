#include "services/cli/rlaif/active_calls.h"

namespace rollcall::cli {

void ActiveCalls::Stop() {
  absl::MutexLock lock(&mutex_);
  stopped_ = true;
  for (grpc::ClientContext* context : contexts_) context->TryCancel();
}

bool ActiveCalls::stopped() const {
  absl::MutexLock lock(&mutex_);
  return stopped_;
}

bool ActiveCalls::AwaitStop(absl::Duration duration) const {
  absl::MutexLock lock(&mutex_);
  return clock_->AwaitWithDeadline(&mutex_, absl::Condition(&stopped_), clock_->Now() + duration);
}

ActiveCalls::Scope::Scope(ActiveCalls& calls, grpc::ClientContext* context)
    : calls_(calls), context_(context) {
  absl::MutexLock lock(&calls_.mutex_);
  may_begin_ = !calls_.stopped_;
  if (may_begin_) calls_.contexts_.insert(context_);
}

ActiveCalls::Scope::~Scope() {
  absl::MutexLock lock(&calls_.mutex_);
  calls_.contexts_.erase(context_);
}

}  // namespace rollcall::cli
