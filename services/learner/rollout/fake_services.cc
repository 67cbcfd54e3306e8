#include "services/learner/rollout/fake_services.h"

#include <grpcpp/server_builder.h>

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/philox.h"

namespace rollcall::learner {
namespace {

uint64_t Hash(uint64_t a, uint64_t b, uint64_t c) {
  const auto words = Philox4x32(a, {static_cast<uint32_t>(b), static_cast<uint32_t>(c), 7, 7});
  return (static_cast<uint64_t>(words[0]) << 32) | words[1];
}

// Until the caller is gone.
void Hang(const grpc::ServerContext& context) {
  absl::Mutex mutex;
  absl::MutexLock lock(&mutex);
  const auto gone = [&context] { return context.IsCancelled(); };
  const absl::Condition condition(&gone);
  // IsCancelled changes without the mutex: look again every few milliseconds.
  while (!mutex.AwaitWithTimeout(condition, absl::Milliseconds(5))) {
  }
}

Fault NextFault(const FaultPlan& plan, uint64_t call, uint64_t group_id) {
  return plan ? plan(call, group_id) : Fault::kNone;
}

grpc::Status QueueFull(grpc::ServerContext* context) {
  context->AddTrailingMetadata("retry-after-ms", "20");
  return grpc::Status(grpc::RESOURCE_EXHAUSTED, "the queue is full");
}

// One delta with everything from `begin` on, up to `end`.
void AddTokens(uint64_t group, uint32_t sample, uint32_t begin, uint32_t end, uint64_t step,
               v1::GenerateResponse* message) {
  v1::SampleDelta* delta = message->add_deltas();
  delta->set_index(sample);
  delta->set_offset(begin);
  delta->set_policy_step(step);
  for (uint32_t p = begin; p < end; ++p) {
    delta->add_token_ids(FakeToken(group, sample, p));
    delta->add_logprobs(FakeLogProb(FakeToken(group, sample, p)));
  }
}

void AddEnd(uint32_t sample, uint32_t begin, uint32_t end, uint64_t step,
            v1::GenerateResponse* message) {
  v1::SampleEnd* out = message->add_ends();
  out->set_index(sample);
  out->set_num_tokens(end);
  out->set_finish_reason(v1::FINISH_REASON_STOP_TOKEN);
  if (begin == end) return;
  v1::VersionSpan* span = out->add_version_spans();
  span->set_begin(begin);
  span->set_end(end);
  *span->mutable_version() = FakeVersion(step);
}

}  // namespace

uint32_t FakeToken(uint64_t group_id, uint32_t sample, uint32_t position) {
  return static_cast<uint32_t>(Hash(group_id, sample, position) % kFakeVocab);
}

uint32_t FakeLength(uint64_t group_id, uint32_t sample) {
  return 3 + static_cast<uint32_t>(Hash(group_id, sample, 1000) % 8);
}

float FakeLogProb(uint32_t token) { return -0.125f * static_cast<float>(token); }

double FakeReward(const std::vector<uint32_t>& token_ids) {
  double sum = 0;
  for (const uint32_t id : token_ids) sum += id;
  return sum;
}

v1::PolicyVersion FakeVersion(uint64_t step) {
  v1::PolicyVersion version;
  version.set_run_id("run");
  version.set_lineage(1);
  version.set_step(step);
  version.set_manifest_hash(absl::StrCat("weights of step ", step));
  return version;
}

void FakeGenerator::SetPlan(FaultPlan plan) {
  absl::MutexLock lock(&mutex_);
  plan_ = std::move(plan);
}

void FakeGenerator::SetStep(uint64_t step) {
  absl::MutexLock lock(&mutex_);
  step_ = step;
}

std::vector<uint64_t> FakeGenerator::groups() const {
  absl::MutexLock lock(&mutex_);
  return groups_;
}

uint64_t FakeGenerator::prefix_tokens() const {
  absl::MutexLock lock(&mutex_);
  return prefix_tokens_;
}

uint64_t FakeGenerator::wrong_prefixes() const {
  absl::MutexLock lock(&mutex_);
  return wrong_prefixes_;
}

Fault FakeGenerator::Enter(const v1::GenerateRequest& request, uint64_t* step) {
  absl::MutexLock lock(&mutex_);
  const uint64_t group = request.key().group_id();
  const uint64_t call = groups_.size();
  groups_.push_back(group);
  for (const v1::SampleRequest& sample : request.samples()) {
    for (int p = 0; p < sample.prefix_token_ids_size(); ++p) {
      ++prefix_tokens_;
      if (sample.prefix_token_ids(p) !=
          FakeToken(group, sample.index(), static_cast<uint32_t>(p))) {
        ++wrong_prefixes_;
      }
    }
  }
  *step = step_;
  return NextFault(plan_, call, group);
}

grpc::Status FakeGenerator::Generate(grpc::ServerContext* context,
                                     const v1::GenerateRequest* request,
                                     grpc::ServerWriter<v1::GenerateResponse>* writer) {
  uint64_t step = 0;
  const Fault fault = Enter(*request, &step);
  const uint64_t group = request->key().group_id();
  if (fault == Fault::kUnavailable) return grpc::Status(grpc::UNAVAILABLE, "down");
  if (fault == Fault::kQueueFull) return QueueFull(context);
  if (request->min_version().step() > step) {
    return grpc::Status(grpc::FAILED_PRECONDITION, "min_version: not here yet");
  }
  v1::GenerateResponse message;
  *message.mutable_header()->mutable_version() = FakeVersion(step);
  writer->Write(message);
  message.Clear();
  if (fault == Fault::kHang) {
    Hang(*context);
    return grpc::Status::CANCELLED;
  }
  std::map<uint32_t, uint32_t> begins;  // sample -> first token to make
  for (const v1::SampleRequest& sample : request->samples()) {
    begins[sample.index()] = static_cast<uint32_t>(sample.prefix_token_ids_size());
  }
  if (begins.empty()) {
    for (uint32_t i = 0; i < request->num_samples(); ++i) begins[i] = 0;
  }
  for (const auto& [sample, begin] : begins) {
    const uint32_t length = FakeLength(group, sample);
    const uint32_t end = fault == Fault::kCutOff ? begin + (length - begin + 1) / 2 : length;
    AddTokens(group, sample, begin, end, step, &message);
    if (fault != Fault::kCutOff) AddEnd(sample, begin, length, step, &message);
  }
  if (fault == Fault::kGarbage) message.mutable_deltas(0)->set_logprobs(0, 0.5f);
  writer->Write(message);
  if (fault == Fault::kCutOff) return grpc::Status(grpc::UNAVAILABLE, "killed");
  return grpc::Status::OK;
}

void FakeVerifier::SetPlan(FaultPlan plan) {
  absl::MutexLock lock(&mutex_);
  plan_ = std::move(plan);
}

void FakeVerifier::SetConstant(std::function<bool(uint64_t)> constant) {
  absl::MutexLock lock(&mutex_);
  constant_ = std::move(constant);
}

grpc::Status FakeVerifier::Score(grpc::ServerContext* context, const v1::ScoreRequest* request,
                                 v1::ScoreResponse* response) {
  Fault fault = Fault::kNone;
  std::function<bool(uint64_t)> constant;
  {
    absl::MutexLock lock(&mutex_);
    constant = constant_;
    fault = NextFault(plan_, calls_++, request->groups(0).group_id());
  }
  if (fault == Fault::kUnavailable || fault == Fault::kCutOff) {
    return grpc::Status(grpc::UNAVAILABLE, "down");
  }
  if (fault == Fault::kQueueFull) return QueueFull(context);
  if (fault == Fault::kHang) {
    Hang(*context);
    return grpc::Status::CANCELLED;
  }
  for (const v1::VerifierGroup& group : request->groups()) {
    v1::GroupResult* result = response->add_groups();
    result->set_group_id(group.group_id());
    for (const v1::VerifierSample& sample : group.samples()) {
      v1::SampleResult* out = result->add_samples();
      out->set_index(sample.index());
      if (fault == Fault::kPartial && sample.index() % 2 == 0) {
        out->mutable_retry()->set_reason("busy");
        continue;
      }
      out->mutable_score()->set_value(
          constant && constant(group.group_id())
              ? 1.0
              : FakeReward({sample.token_ids().begin(), sample.token_ids().end()}));
    }
    if (fault == Fault::kGarbage) {
      result->mutable_samples(0)->mutable_score()->set_value(
          std::numeric_limits<double>::quiet_NaN());
    }
  }
  return grpc::Status::OK;
}

void FakeReference::SetPlan(FaultPlan plan) {
  absl::MutexLock lock(&mutex_);
  plan_ = std::move(plan);
}

grpc::Status FakeReference::Score(grpc::ServerContext* context, const v1::LogProbRequest* request,
                                  v1::LogProbResponse* response) {
  Fault fault = Fault::kNone;
  {
    absl::MutexLock lock(&mutex_);
    fault = NextFault(plan_, calls_++, 0);
  }
  if (fault == Fault::kUnavailable || fault == Fault::kCutOff) {
    return grpc::Status(grpc::UNAVAILABLE, "down");
  }
  if (fault == Fault::kQueueFull) return QueueFull(context);
  if (fault == Fault::kHang) {
    Hang(*context);
    return grpc::Status::CANCELLED;
  }
  for (const v1::TokenSequence& sequence : request->sequences()) {
    v1::SequenceLogProbs* out = response->add_sequences();
    for (int t = static_cast<int>(sequence.score_from()); t < sequence.token_ids_size(); ++t) {
      out->add_logprobs(2 * FakeLogProb(sequence.token_ids(t)));
    }
  }
  if (fault == Fault::kGarbage) response->mutable_sequences()->RemoveLast();
  return grpc::Status::OK;
}

FakeServer::FakeServer(grpc::Service* service)
    : server_(grpc::ServerBuilder().RegisterService(service).BuildAndStart()) {}

FakeServer::~FakeServer() { server_->Shutdown(std::chrono::system_clock::now()); }

std::shared_ptr<grpc::Channel> FakeServer::channel() const { return server_->InProcessChannel({}); }

FastClock::FastClock(double speed) : speed_(speed), start_(absl::Now()) {}

absl::Time FastClock::Now() { return start_ + (absl::Now() - start_) * speed_; }

bool FastClock::AwaitWithDeadline(absl::Mutex* mutex, const absl::Condition& condition,
                                  absl::Time deadline) {
  const absl::Time real =
      deadline == absl::InfiniteFuture() ? deadline : start_ + (deadline - start_) / speed_;
  return mutex->AwaitWithDeadline(condition, real);
}

}  // namespace rollcall::learner
