#include "services/reward/service.h"

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/rpc/status_conversion.h"
#include "services/reward/compose/request.h"

namespace rollcall::reward {
namespace {

constexpr absl::Duration kDescribeTimeout = absl::Seconds(5);

// Share of the caller's time that is kept for composing and sending the answer, so that a slow
// verifier costs a `retry` and not the whole request.
constexpr double kAnswerShare = 0.05;
constexpr absl::Duration kMostAnswerTime = absl::Seconds(1);

absl::Time DeadlineOf(const grpc::CallbackServerContext& context, const v1::ScoreRequest& request,
                      absl::Time now) {
  absl::Duration left = absl::Seconds(request.deadline_seconds());
  const absl::Time of_call = absl::FromChrono(context.deadline());
  left = std::min(left, of_call - absl::Now());
  return now + left - std::min(left * kAnswerShare, kMostAnswerTime);
}

bool IsLasting(const std::vector<v1::GroupResult>& groups) {
  for (const v1::GroupResult& group : groups) {
    for (const v1::SampleResult& sample : group.samples()) {
      if (!sample.has_score() && !sample.has_abstain()) return false;
    }
  }
  return true;
}

}  // namespace

// One Score: the reactor keeps it, the queue and the composition's calls share it.
class ScoreJob : public std::enable_shared_from_this<ScoreJob> {
 public:
  ScoreJob(RewardService* service, const v1::ScoreRequest* request, v1::ScoreResponse* response,
           absl::Time deadline, std::function<void(absl::Status)> finish)
      : service_(service),
        request_(*request),
        response_(response),
        start_(service->composition_->clock()->Now()),
        deadline_(deadline),
        finish_(std::move(finish)) {}

  // On a worker thread.
  void Run() ABSL_LOCKS_EXCLUDED(mutex_) {
    if (cancelled()) return Finish(absl::CancelledError("the caller went away"));
    fingerprint_ = FingerprintOf(request_);
    if (auto kept = service_->cache_.Find(request_.idempotency_key(), fingerprint_)) {
      service_->metrics_.repeated.Increment();
      response_->Swap(&*kept);
      return Finish(absl::OkStatus());
    }
    Verifier::Cancel cancel = service_->composition_->Score(
        request_, deadline_, [self = shared_from_this()](std::vector<v1::GroupResult> groups) {
          self->OnScored(std::move(groups));
        });
    bool cancel_now = false;
    {
      absl::MutexLock lock(&mutex_);
      cancel_now = cancelled_;
      if (!done_) cancel_ = cancel;
    }
    if (cancel_now) cancel();
  }

  void Cancel() ABSL_LOCKS_EXCLUDED(mutex_) {
    Verifier::Cancel cancel;
    {
      absl::MutexLock lock(&mutex_);
      cancelled_ = true;
      cancel = cancel_;
    }
    if (cancel) cancel();
  }

 private:
  bool cancelled() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return cancelled_;
  }

  void OnScored(std::vector<v1::GroupResult> groups) ABSL_LOCKS_EXCLUDED(mutex_) {
    {
      absl::MutexLock lock(&mutex_);
      done_ = true;
      cancel_ = nullptr;  // It holds the calls, which hold this.
    }
    if (cancelled()) return Finish(absl::CancelledError("the caller went away"));
    const bool keep = IsLasting(groups);
    for (v1::GroupResult& group : groups) {
      for (const v1::SampleResult& sample : group.samples()) {
        service_->metrics_.outcomes.Count(sample);
      }
      response_->add_groups()->Swap(&group);
    }
    if (keep) {
      service_->cache_.Store(request_.idempotency_key(), fingerprint_, *response_);
      service_->metrics_.cache_bytes.Set(static_cast<double>(service_->cache_.bytes()));
    }
    Finish(absl::OkStatus());
  }

  void Finish(const absl::Status& status) {
    RewardMetrics& metrics = service_->metrics_;
    if (absl::IsCancelled(status)) metrics.cancelled.Increment();
    metrics.seconds.Observe(absl::ToDoubleSeconds(service_->composition_->clock()->Now() - start_));
    finish_(status);
  }

  RewardService* const service_;
  const v1::ScoreRequest& request_;    // gRPC's, until finish_
  v1::ScoreResponse* const response_;  // gRPC's, until finish_
  const absl::Time start_;
  const absl::Time deadline_;
  const std::function<void(absl::Status)> finish_;
  std::string fingerprint_;

  mutable absl::Mutex mutex_;
  Verifier::Cancel cancel_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
};

namespace {

// Finishes when the job does, and tells it of a cancel.
class JobReactor : public grpc::ServerUnaryReactor {
 public:
  void set_job(std::shared_ptr<ScoreJob> job) { job_ = std::move(job); }
  void OnCancel() override { job_->Cancel(); }
  void OnDone() override { delete this; }

 private:
  std::shared_ptr<ScoreJob> job_;
};

// Finishes when every verifier has described itself.
class DescribeReactor : public grpc::ServerUnaryReactor {
 public:
  void OnDone() override { delete this; }
};

grpc::ServerUnaryReactor* Refuse(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(rpc::ToGrpc(status));
  return reactor;
}

}  // namespace

RewardService::RewardService(Composition* composition, metrics::Registry& registry,
                             const ServiceOptions& options)
    : composition_(composition),
      options_(options),
      metrics_(registry),
      cache_(options.cache_bytes),
      queue_(options.max_pending_requests) {
  for (int i = 0; i < std::max(options.threads, 1); ++i) workers_.emplace_back([this] { Work(); });
}

RewardService::~RewardService() {
  queue_.Close();
  for (std::thread& worker : workers_) worker.join();
}

void RewardService::CloseIntake() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
}

absl::Status RewardService::AwaitIdle(absl::Time deadline) const {
  absl::MutexLock lock(&mutex_);
  if (mutex_.AwaitWithDeadline(absl::Condition(this, &RewardService::IsIdle), deadline)) {
    return absl::OkStatus();
  }
  return absl::DeadlineExceededError(
      absl::StrCat(pending_requests_, " requests were still under way"));
}

absl::Status RewardService::Admit(size_t bytes) {
  absl::MutexLock lock(&mutex_);
  if (closed_) return absl::UnavailableError("the service stops");
  if (pending_requests_ >= options_.max_pending_requests) {
    return absl::ResourceExhaustedError(
        absl::StrCat(pending_requests_, " requests are under way, no more are held"));
  }
  if (pending_bytes_ + bytes > options_.max_pending_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("requests of ", pending_bytes_,
                                                     " bytes are under way, at most ",
                                                     options_.max_pending_bytes, " are held"));
  }
  ++pending_requests_;
  pending_bytes_ += bytes;
  metrics_.pending.Increment();
  return absl::OkStatus();
}

void RewardService::Release(size_t bytes) {
  absl::MutexLock lock(&mutex_);
  --pending_requests_;
  pending_bytes_ -= bytes;
  metrics_.pending.Decrement();
}

void RewardService::Work() {
  while (std::optional<std::shared_ptr<ScoreJob>> job = queue_.Pop()) (*job)->Run();
}

grpc::ServerUnaryReactor* RewardService::Score(grpc::CallbackServerContext* context,
                                               const v1::ScoreRequest* request,
                                               v1::ScoreResponse* response) {
  metrics_.requests.Increment();
  const size_t bytes = request->ByteSizeLong();
  absl::Status status = CheckScoreRequest(*request);
  if (status.ok()) status = Admit(bytes);
  if (!status.ok()) {
    metrics_.refused.Increment();
    return Refuse(context, status);
  }
  auto* reactor = new JobReactor;
  auto job = std::make_shared<ScoreJob>(
      this, request, response, DeadlineOf(*context, *request, composition_->clock()->Now()),
      [this, reactor, bytes](const absl::Status& result) {
        Release(bytes);
        reactor->Finish(rpc::ToGrpc(result));
      });
  reactor->set_job(job);
  if (!queue_.TryPush(job)) {  // Closed: the queue has room for every admitted request.
    Release(bytes);
    metrics_.refused.Increment();
    reactor->Finish(rpc::ToGrpc(absl::UnavailableError("the service stops")));
  }
  return reactor;
}

grpc::ServerUnaryReactor* RewardService::Describe(grpc::CallbackServerContext*,
                                                  const v1::DescribeRequest*,
                                                  v1::VerifierDescription* response) {
  auto* reactor = new DescribeReactor;
  composition_->Describe(absl::Now() + kDescribeTimeout,
                         [reactor, response](absl::StatusOr<v1::VerifierDescription> description) {
                           const absl::Status status = description.status();
                           if (status.ok()) *response = *std::move(description);
                           reactor->Finish(rpc::ToGrpc(status));
                         });
  return reactor;
}

}  // namespace rollcall::reward
