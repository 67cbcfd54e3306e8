#include "services/reference/service.h"

#include <chrono>
#include <memory>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/base/status.h"
#include "common/rpc/status_conversion.h"
#include "services/reference/validate.h"

namespace rollcall::reference {
namespace {

// A full queue empties at the pace of forward passes, which take a fraction of a second to seconds.
constexpr char kRetryAfterMilliseconds[] = "250";

// Answers one Score call. Owned by gRPC until OnDone; the job's callback may run after a cancel, so
// the two meet in Finish exactly once through ScoreJob::Answer.
class ScoreReactor final : public grpc::ServerUnaryReactor {
 public:
  ScoreReactor(const v1::ModelDescription& description, v1::LogProbResponse* response)
      : description_(description), response_(response) {}

  void Adopt(ScoreJobPtr job) { job_ = std::move(job); }

  void OnResult(ScoreJob::Result result) {
    if (!result.ok()) {
      Finish(rpc::ToGrpc(result.status()));
      return;
    }
    for (const ScoredSequence& sequence : *result) {
      v1::SequenceLogProbs* out = response_->add_sequences();
      out->mutable_logprobs()->Add(sequence.logprobs.begin(), sequence.logprobs.end());
      out->mutable_entropies()->Add(sequence.entropies.begin(), sequence.entropies.end());
    }
    *response_->mutable_numerics() = description_.numerics();
    response_->set_manifest_hash(description_.manifest_hash());
    Finish(grpc::Status::OK);
  }

  void OnCancel() override {
    if (job_) job_->cancelled = true;
  }
  void OnDone() override { delete this; }

 private:
  const v1::ModelDescription& description_;
  v1::LogProbResponse* const response_;
  ScoreJobPtr job_;  // set before the reactor is returned to gRPC, so before any OnCancel
};

}  // namespace

grpc::ServerUnaryReactor* LogProbService::Score(grpc::CallbackServerContext* context,
                                                const v1::LogProbRequest* request,
                                                v1::LogProbResponse* response) {
  const v1::ModelDescription& description = engine_->description();
  metrics_->requests.Increment();
  absl::StatusOr<ScoreJobPtr> job =
      ParseRequest(*request, {description.vocab_size(), description.context_length()});
  absl::Status refusal = job.status();
  if (refusal.ok() && !request->manifest_hash().empty() &&
      request->manifest_hash() != description.manifest_hash()) {
    refusal = absl::FailedPreconditionError("manifest_hash: this service holds other weights");
  }
  if (!refusal.ok()) {
    metrics_->refused.Increment();
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(rpc::ToGrpc(refusal));
    return reactor;
  }
  auto* reactor = new ScoreReactor(description, response);
  (*job)->deadline = absl::FromChrono(context->deadline());
  (*job)->done = [reactor](ScoreJob::Result result) { reactor->OnResult(std::move(result)); };
  reactor->Adopt(*job);
  if (const absl::Status admitted = queue_->Admit(*job); !admitted.ok()) {
    metrics_->refused.Increment();
    if (absl::IsResourceExhausted(admitted)) {
      context->AddTrailingMetadata("retry-after-ms", kRetryAfterMilliseconds);
    }
    (*job)->Answer(admitted);
  }
  return reactor;
}

grpc::ServerUnaryReactor* LogProbService::Describe(grpc::CallbackServerContext* context,
                                                   const v1::DescribeModelRequest*,
                                                   v1::ModelDescription* response) {
  *response = engine_->description();
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace rollcall::reference
