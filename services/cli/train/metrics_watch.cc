#include "services/cli/train/metrics_watch.h"

#include <utility>

#include "absl/time/clock.h"
#include "common/rpc/status_conversion.h"

namespace rollcall::cli {
namespace {

// Between two tries to open the stream while the learner is coming up.
constexpr absl::Duration kRetryDelay = absl::Milliseconds(100);
constexpr absl::Duration kStatusTimeout = absl::Seconds(1);

}  // namespace

MetricsWatch::MetricsWatch(std::shared_ptr<grpc::Channel> channel, uint64_t from_step)
    : channel_(std::move(channel)),
      stub_(v1::Learner::NewStub(channel_)),
      next_step_(from_step),
      thread_([this] { Follow(); }) {}

MetricsWatch::~MetricsWatch() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    if (context_ != nullptr) context_->TryCancel();
  }
  thread_.join();
}

std::vector<v1::StepMetrics> MetricsWatch::Take() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(taken_, {});
}

absl::StatusOr<v1::LearnerStatus> MetricsWatch::Status() {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kStatusTimeout));
  v1::LearnerStatus status;
  const grpc::Status result = stub_->GetStatus(&context, {}, &status);
  if (!result.ok()) return rpc::FromGrpc(result);
  return status;
}

void MetricsWatch::Follow() {
  while (true) {
    FollowOnce();
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(&stopping_), kRetryDelay);
    if (stopping_) return;
  }
}

void MetricsWatch::FollowOnce() {
  grpc::ClientContext context;
  v1::WatchMetricsRequest request;
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return;
    request.set_from_step(next_step_);
    context_ = &context;
  }
  const auto reader = stub_->WatchMetrics(&context, request);
  for (v1::StepMetrics metrics; reader->Read(&metrics);) {
    absl::MutexLock lock(&mutex_);
    next_step_ = metrics.step() + 1;
    taken_.push_back(std::move(metrics));
  }
  [[maybe_unused]] const grpc::Status ended = reader->Finish();
  absl::MutexLock lock(&mutex_);
  context_ = nullptr;
}

}  // namespace rollcall::cli
