#pragma once

#include <grpcpp/server.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/clock.h"
#include "rollcall/v1/generator.grpc.pb.h"
#include "rollcall/v1/logprob.grpc.pb.h"
#include "rollcall/v1/verifier.grpc.pb.h"

namespace rollcall::learner {

// Stand-ins for the services that the learner calls, for tests: real gRPC servers in this process
// whose answers are pure functions of the request, and which can be told to fail.

// What a call of a fake does instead of answering well.
enum class Fault {
  kNone,
  kUnavailable,  // at once
  kQueueFull,    // RESOURCE_EXHAUSTED with retry-after-ms
  kCutOff,       // UNAVAILABLE after a part of the answer (generator)
  kGarbage,      // an answer that breaks the contract
  kHang,         // no answer until the caller gives up
  kPartial,      // some samples `retry` (verifier)
};

// Decides the fault of the n-th call (from 0) of a fake, which concerns `group_id`.
using FaultPlan = std::function<Fault(uint64_t call, uint64_t group_id)>;

// Groups of kFakeVocab tokens: 3 to 10 tokens by (group, sample), each a pure function of its
// address.
inline constexpr uint32_t kFakeVocab = 64;
uint32_t FakeToken(uint64_t group_id, uint32_t sample, uint32_t position);
uint32_t FakeLength(uint64_t group_id, uint32_t sample);
float FakeLogProb(uint32_t token);
double FakeReward(const std::vector<uint32_t>& token_ids);
// The version that fakes serve.
v1::PolicyVersion FakeVersion(uint64_t step);

class FakeGenerator final : public v1::Generator::Service {
 public:
  void SetPlan(FaultPlan plan) ABSL_LOCKS_EXCLUDED(mutex_);
  // Step of the version it claims to hold.
  void SetStep(uint64_t step) ABSL_LOCKS_EXCLUDED(mutex_);

  std::vector<uint64_t> groups() const ABSL_LOCKS_EXCLUDED(mutex_);  // of every call, in order
  uint64_t prefix_tokens() const ABSL_LOCKS_EXCLUDED(mutex_);        // received, in all calls
  // Prefixes that were not what this generator would have made itself.
  uint64_t wrong_prefixes() const ABSL_LOCKS_EXCLUDED(mutex_);

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override;

 private:
  Fault Enter(const v1::GenerateRequest& request, uint64_t* step) ABSL_LOCKS_EXCLUDED(mutex_);

  mutable absl::Mutex mutex_;
  FaultPlan plan_ ABSL_GUARDED_BY(mutex_);
  uint64_t step_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<uint64_t> groups_ ABSL_GUARDED_BY(mutex_);
  uint64_t prefix_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t wrong_prefixes_ ABSL_GUARDED_BY(mutex_) = 0;
};

class FakeVerifier final : public v1::Verifier::Service {
 public:
  void SetPlan(FaultPlan plan) ABSL_LOCKS_EXCLUDED(mutex_);
  // Groups whose samples all get the reward 1.
  void SetConstant(std::function<bool(uint64_t group_id)> constant) ABSL_LOCKS_EXCLUDED(mutex_);
  grpc::Status Score(grpc::ServerContext* context, const v1::ScoreRequest* request,
                     v1::ScoreResponse* response) override;

 private:
  absl::Mutex mutex_;
  FaultPlan plan_ ABSL_GUARDED_BY(mutex_);
  std::function<bool(uint64_t)> constant_ ABSL_GUARDED_BY(mutex_);
  uint64_t calls_ ABSL_GUARDED_BY(mutex_) = 0;
};

class FakeReference final : public v1::LogProb::Service {
 public:
  void SetPlan(FaultPlan plan) ABSL_LOCKS_EXCLUDED(mutex_);
  grpc::Status Score(grpc::ServerContext* context, const v1::LogProbRequest* request,
                     v1::LogProbResponse* response) override;

 private:
  absl::Mutex mutex_;
  FaultPlan plan_ ABSL_GUARDED_BY(mutex_);
  uint64_t calls_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Serves one fake; stops with it.
class FakeServer {
 public:
  explicit FakeServer(grpc::Service* service);
  ~FakeServer();
  std::shared_ptr<grpc::Channel> channel() const;

 private:
  std::unique_ptr<grpc::Server> server_;
};

// Real time, `speed` times as fast: back-off of seconds passes in milliseconds.
class FastClock final : public Clock {
 public:
  explicit FastClock(double speed);
  absl::Time Now() override;
  bool AwaitWithDeadline(absl::Mutex* mutex, const absl::Condition& condition,
                         absl::Time deadline) override ABSL_NO_THREAD_SAFETY_ANALYSIS;

 private:
  const double speed_;
  const absl::Time start_;
};

}  // namespace rollcall::learner
