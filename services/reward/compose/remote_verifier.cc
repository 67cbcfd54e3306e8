#include "services/reward/compose/remote_verifier.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/wire/sha256.h"
#include "services/reward/compose/compose.h"
#include "services/reward/compose/request.h"
#include "services/reward/rules/column.h"

namespace rollcall::reward {
namespace {

// CANCELLED is a server that stops: our own cancel asks for no verdict.
bool IsPassing(grpc::StatusCode code) {
  return code == grpc::StatusCode::UNAVAILABLE || code == grpc::StatusCode::RESOURCE_EXHAUSTED ||
         code == grpc::StatusCode::DEADLINE_EXCEEDED || code == grpc::StatusCode::CANCELLED;
}

uint64_t SeedOf(const std::string& key) {
  const wire::Sha256Digest digest = wire::Sha256Of(key);
  uint64_t seed = 0;
  std::memcpy(&seed, digest.data(), sizeof(seed));
  return seed;
}

bool HasRetry(const v1::GroupResult& group) {
  return std::any_of(group.samples().begin(), group.samples().end(),
                     [](const v1::SampleResult& sample) { return sample.has_retry(); });
}

// One Score and its tries. It is kept alive by whoever will call it next: the RPC, the timer or a
// canceller.
class RemoteScore : public std::enable_shared_from_this<RemoteScore> {
 public:
  RemoteScore(std::shared_ptr<const RemoteOptions> options,
              std::shared_ptr<v1::Verifier::StubInterface> stub, RetryTimer* timer,
              VerifierMetrics* metrics, const v1::ScoreRequest& request, absl::Time deadline,
              Verifier::Done done)
      : options_(std::move(options)),
        stub_(std::move(stub)),
        timer_(timer),
        metrics_(metrics),
        request_(request),
        deadline_(deadline),
        seed_(SeedOf(request.idempotency_key())),
        done_(std::move(done)),
        results_(FaultForAll(request, /*passing=*/true, Named("not asked in time"))) {
    for (int g = 0; g < request.groups_size(); ++g) pending_.push_back(g);
  }

  void Try() ABSL_LOCKS_EXCLUDED(mutex_);
  void Cancel() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  std::string Named(const std::string& what) const {
    return absl::StrCat(what, " (", options_->address, ")");
  }

  void OnAnswer(const grpc::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);
  // What a try brought, into results_ and pending_; true when it ended in a passing fault.
  bool KeepAnswer(const grpc::Status& status);
  void KeepFault(bool passing, const std::string& reason);
  void Finish() ABSL_LOCKS_EXCLUDED(mutex_);

  const std::shared_ptr<const RemoteOptions> options_;
  const std::shared_ptr<v1::Verifier::StubInterface> stub_;
  RetryTimer* const timer_;
  VerifierMetrics* const metrics_;
  const v1::ScoreRequest& request_;  // the caller's, until done_ was called
  const absl::Time deadline_;
  const uint64_t seed_;

  // Touched by the one try that is under way, or by Finish: never by two threads at once.
  Verifier::Done done_;
  std::vector<v1::GroupResult> results_;
  std::vector<int> pending_;  // groups to ask for, by index in the request
  uint32_t attempt_ = 0;
  uint32_t key_attempt_ = 1;  // of the idempotency key
  v1::ScoreRequest asked_;
  v1::ScoreResponse answer_;

  absl::Mutex mutex_;
  std::shared_ptr<grpc::ClientContext> context_ ABSL_GUARDED_BY(mutex_);  // of the call under way
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool waiting_ ABSL_GUARDED_BY(mutex_) = false;  // between two tries
};

void RemoteScore::Try() {
  const absl::Time now = timer_->clock()->Now();
  const absl::Time end = std::min(now + options_->timeout, deadline_);
  auto context = std::make_shared<grpc::ClientContext>();
  // The library's clock is the system's; an injected one only decides when to try.
  context->set_deadline(absl::ToChronoTime(absl::Now() + (end - now)));
  // A verifier that restarts is worth waiting for, up to the deadline of the try.
  context->set_wait_for_ready(true);
  {
    absl::MutexLock lock(&mutex_);
    if (cancelled_) return;  // And finished by Cancel, while this waited for its time.
    waiting_ = false;
    context_ = context;
  }
  ++attempt_;
  if (attempt_ > 1) metrics_->repeated.Increment();
  asked_.Clear();
  answer_.Clear();
  asked_.set_idempotency_key(KeyOfAttempt(request_.idempotency_key(), key_attempt_));
  asked_.set_deadline_seconds(std::max(absl::ToDoubleSeconds(end - now), 1e-3));
  for (const int g : pending_) *asked_.add_groups() = request_.groups(g);
  stub_->async()->Score(
      context.get(), &asked_, &answer_,
      [self = shared_from_this(), context](const grpc::Status& status) { self->OnAnswer(status); });
}

void RemoteScore::OnAnswer(const grpc::Status& status) {
  const bool passing = KeepAnswer(status);
  const RetryDecision decision =
      DecideRetry(passing, attempt_, options_->retries, seed_, timer_->clock()->Now(), deadline_);
  bool again = false;
  {
    absl::MutexLock lock(&mutex_);
    context_.reset();
    again = decision.again && !cancelled_;
    waiting_ = again;
  }
  if (!again) return Finish();
  timer_->RunAt(decision.at, [self = shared_from_this()] { self->Try(); });
}

bool RemoteScore::KeepAnswer(const grpc::Status& status) {
  if (!status.ok()) {
    const bool passing = IsPassing(status.error_code());
    metrics_->failed_calls.Increment();
    KeepFault(passing,
              Named(absl::StrCat("call failed with status ", static_cast<int>(status.error_code()),
                                 ": ", status.error_message())));
    return passing;
  }
  std::vector<const v1::VerifierGroup*> groups;
  for (const int g : pending_) groups.push_back(&request_.groups(g));
  if (const absl::Status shape = CheckShape(groups, answer_); !shape.ok()) {
    metrics_->invalid.Increment();
    KeepFault(false, Named(absl::StrCat("its answer is invalid: ", std::string(shape.message()))));
    return false;
  }
  std::vector<int> again;
  for (size_t i = 0; i < groups.size(); ++i) {
    v1::GroupResult* group = answer_.mutable_groups(static_cast<int>(i));
    for (int s = 0; s < group->samples_size(); ++s) {
      if (!EnforceContract(groups[i]->samples(s), group->mutable_samples(s))) {
        metrics_->invalid.Increment();
      }
    }
    if (HasRetry(*group)) again.push_back(pending_[i]);
    results_[pending_[i]].Swap(group);
  }
  pending_ = std::move(again);
  if (!pending_.empty()) ++key_attempt_;
  return !pending_.empty();
}

void RemoteScore::KeepFault(bool passing, const std::string& reason) {
  for (const int g : pending_) {
    for (v1::SampleResult& sample : *results_[g].mutable_samples()) {
      // Another sample of the group may have been answered before; the group is asked whole, so
      // what it said then stands only for samples with a lasting outcome.
      if (key_attempt_ > 1 && !sample.has_retry()) continue;
      (passing ? sample.mutable_retry() : sample.mutable_error())
          ->set_reason(CutUtf8(reason, kMaxDetailBytes));
    }
  }
}

void RemoteScore::Cancel() {
  std::shared_ptr<grpc::ClientContext> context;
  bool finish = false;
  {
    absl::MutexLock lock(&mutex_);
    if (cancelled_) return;
    cancelled_ = true;
    context = context_;
    finish = waiting_;
    waiting_ = false;
  }
  if (context != nullptr) context->TryCancel();
  if (finish) Finish();
}

void RemoteScore::Finish() {
  Verifier::Done done = std::move(done_);
  done(std::move(results_));
}

// One Describe.
struct RemoteDescribe {
  grpc::ClientContext context;
  v1::DescribeRequest request;
  v1::VerifierDescription answer;
};

}  // namespace

RetryDecision DecideRetry(bool passing, uint32_t attempt, uint32_t retries, uint64_t seed,
                          absl::Time now, absl::Time deadline) {
  RetryDecision decision;
  if (!passing || attempt > retries) return decision;
  decision.at = now + BackoffAfter(attempt, seed);
  decision.again = decision.at < deadline;
  return decision;
}

RemoteVerifier::RemoteVerifier(RemoteOptions options,
                               std::shared_ptr<v1::Verifier::StubInterface> stub, RetryTimer* timer,
                               VerifierMetrics* metrics)
    : options_(std::make_shared<const RemoteOptions>(std::move(options))),
      stub_(std::move(stub)),
      timer_(timer),
      metrics_(metrics) {}

Verifier::Cancel RemoteVerifier::Score(const v1::ScoreRequest& request, absl::Time deadline,
                                       Done done) {
  auto call = std::make_shared<RemoteScore>(options_, stub_, timer_, metrics_, request, deadline,
                                            std::move(done));
  call->Try();
  return [call] { call->Cancel(); };
}

Verifier::Cancel RemoteVerifier::Describe(absl::Time deadline, DescribeDone done) {
  auto call = std::make_shared<RemoteDescribe>();
  call->context.set_deadline(absl::ToChronoTime(deadline));
  stub_->async()->Describe(
      &call->context, &call->request, &call->answer,
      [call, options = options_, done = std::move(done)](const grpc::Status& status) {
        if (status.ok()) return done(call->answer);
        done(absl::UnavailableError(absl::StrCat("verifier ", options->name, " at ",
                                                 options->address, ": ", status.error_message())));
      });
  return [call] { call->context.TryCancel(); };
}

}  // namespace rollcall::reward
