#include "services/reward/model/service.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/rpc/status_conversion.h"
#include "services/reward/compose/request.h"

namespace rollcall::reward {
namespace {

// A full queue empties at the pace of forward passes, which take a fraction of a second to seconds.
constexpr char kRetryAfterMilliseconds[] = "250";

size_t CountSamples(const v1::ScoreRequest& request) {
  size_t samples = 0;
  for (const v1::VerifierGroup& group : request.groups()) samples += group.samples_size();
  return samples;
}

// Finishes when the call does, and tells its job of a cancel.
class CallReactor final : public grpc::ServerUnaryReactor {
 public:
  explicit CallReactor(std::shared_ptr<ModelJob> job) : job_(std::move(job)) {}
  void OnCancel() override { job_->cancelled = true; }
  void OnDone() override { delete this; }

 private:
  const std::shared_ptr<ModelJob> job_;
};

}  // namespace

// One Score: its samples become the job's sequences, but for those that cannot be encoded.
class ModelCall {
 public:
  // `request` and `response` are gRPC's, until `finish` is called.
  ModelCall(std::shared_ptr<ModelJob> job, const v1::ScoreRequest* request,
            v1::ScoreResponse* response, OutcomeMetrics* outcomes)
      : job_(std::move(job)), request_(request), response_(response), outcomes_(outcomes) {}

  // On the encoder's thread. The number of samples that became sequences.
  size_t Encode(const SequenceEncoder& encoder) {
    for (const v1::VerifierGroup& group : request_->groups()) {
      v1::GroupResult* out = response_->add_groups();
      out->set_group_id(group.group_id());
      for (const v1::VerifierSample& sample : group.samples()) {
        v1::SampleResult* result = out->add_samples();
        result->set_index(sample.index());
        absl::StatusOr<std::vector<uint32_t>> ids = encoder.Encode(group, sample);
        if (ids.ok()) {
          job_->sequences.push_back({*std::move(ids)});
          scored_.push_back(result);
        } else {
          result->mutable_error()->set_reason(std::string(ids.status().message()));
        }
      }
    }
    return scored_.size();
  }

  // What the model said, one score for each sequence.
  void SetScores(const std::vector<float>& scores) {
    for (size_t i = 0; i < scores.size(); ++i) {
      if (std::isfinite(scores[i])) {
        scored_[i]->mutable_score()->set_value(scores[i]);
      } else {
        scored_[i]->mutable_error()->set_reason("the reward model's score is not finite");
      }
    }
    for (const v1::GroupResult& group : response_->groups()) {
      for (const v1::SampleResult& sample : group.samples()) outcomes_->Count(sample);
    }
  }

  const std::shared_ptr<ModelJob>& job() const { return job_; }
  size_t samples() const { return CountSamples(*request_); }

 private:
  const std::shared_ptr<ModelJob> job_;
  const v1::ScoreRequest* const request_;
  v1::ScoreResponse* const response_;
  OutcomeMetrics* const outcomes_;
  std::vector<v1::SampleResult*> scored_;  // in response_, parallel to job_->sequences
};

RewardModelService::RewardModelService(ModelServiceOptions options, SequenceEncoder encoder,
                                       ModelQueue* queue, batching::BatchMetrics* metrics,
                                       OutcomeMetrics* outcomes, Clock* clock)
    : options_(std::move(options)),
      encoder_(std::move(encoder)),
      queue_(queue),
      metrics_(metrics),
      outcomes_(outcomes),
      clock_(clock),
      // Room for every call that has places in the queue: each has a sample at least.
      to_encode_(std::max<size_t>(options_.max_waiting_sequences, 1)),
      encoder_thread_([this] { EncodeCalls(); }) {}

RewardModelService::~RewardModelService() {
  to_encode_.Close();
  encoder_thread_.join();
}

void RewardModelService::EncodeCalls() {
  while (std::optional<std::shared_ptr<ModelCall>> next = to_encode_.Pop()) {
    ModelCall& call = **next;
    const std::shared_ptr<ModelJob> job = call.job();
    const size_t samples = call.samples();
    if (job->cancelled || job->deadline <= clock_->Now()) {
      queue_->Release(samples);
      job->Answer(absl::DeadlineExceededError("nobody waits for this call any more"));
      continue;
    }
    const size_t encoded = call.Encode(encoder_);
    queue_->Release(samples - encoded);
    if (encoded == 0) {
      job->Answer(std::vector<float>());
    } else {
      queue_->Push(job);
    }
  }
}

grpc::ServerUnaryReactor* RewardModelService::Score(grpc::CallbackServerContext* context,
                                                    const v1::ScoreRequest* request,
                                                    v1::ScoreResponse* response) {
  metrics_->requests.Increment();
  absl::Status status = CheckScoreRequest(*request);
  if (status.ok()) status = queue_->Reserve(CountSamples(*request));
  if (!status.ok()) {
    metrics_->refused.Increment();
    if (absl::IsResourceExhausted(status)) {
      context->AddTrailingMetadata("retry-after-ms", kRetryAfterMilliseconds);
    }
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(rpc::ToGrpc(status));
    return reactor;
  }
  auto job = std::make_shared<ModelJob>();
  auto* reactor = new CallReactor(job);
  auto call = std::make_shared<ModelCall>(job, request, response, outcomes_);
  job->deadline = clock_->Now() + std::min(absl::Seconds(request->deadline_seconds()),
                                           absl::FromChrono(context->deadline()) - absl::Now());
  job->done = [reactor, call](const ModelJob::Result& result) {
    if (result.ok()) call->SetScores(*result);
    reactor->Finish(rpc::ToGrpc(result.status()));
  };
  if (!to_encode_.TryPush(call)) {  // Closed.
    queue_->Release(call->samples());
    job->Answer(absl::UnavailableError("the service stops"));
  }
  return reactor;
}

grpc::ServerUnaryReactor* RewardModelService::Describe(grpc::CallbackServerContext* context,
                                                       const v1::DescribeRequest*,
                                                       v1::VerifierDescription* response) {
  response->set_name(options_.name);
  response->set_version(options_.version);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace rollcall::reward
