#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/bounded_queue.h"
#include "common/metrics/registry.h"
#include "rollcall/v1/verifier.grpc.pb.h"
#include "services/reward/compose/answer_cache.h"
#include "services/reward/compose/composition.h"
#include "services/reward/reward_metrics.h"

namespace rollcall::reward {

// | limit                | value   | reason | | -------------------- | ------- |
// -------------------------------------------------------------------- | | max_pending_requests |
// 1024    | a learner keeps some hundred groups in flight, one request each      | |
// max_pending_bytes    | 256 MiB | four requests of the largest size, or thousands of ordinary ones
// | | cache_bytes          | 64 MiB  | about 10,000 groups of 8: many times what can be asked again
// | | threads              | 2       | rules take microseconds a sample; the second keeps a large
// one aside |
struct ServiceOptions {
  size_t max_pending_requests = 1024;
  size_t max_pending_bytes = size_t{256} << 20;
  size_t cache_bytes = size_t{64} << 20;
  int threads = 2;
};

class ScoreJob;

// rollcall.v1.Verifier over a composition. RPC threads check and enqueue; a few worker threads run
// the rules and start the remote calls; whichever call ends last composes and answers. More than
// the limits above is RESOURCE_EXHAUSTED.
class RewardService : public v1::Verifier::CallbackService {
 public:
  // `composition` and `registry` must outlive the service, and the service the server that serves
  // it.
  RewardService(Composition* composition, metrics::Registry& registry,
                const ServiceOptions& options = {});
  // Waits for the queued requests.
  ~RewardService() override;

  // New requests are UNAVAILABLE from now on. Never blocks.
  void CloseIntake() ABSL_LOCKS_EXCLUDED(mutex_);
  // Blocks until no request is under way; DEADLINE_EXCEEDED when some still are by then.
  absl::Status AwaitIdle(absl::Time deadline) const ABSL_LOCKS_EXCLUDED(mutex_);

  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* context,
                                  const v1::ScoreRequest* request,
                                  v1::ScoreResponse* response) override;
  grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context,
                                     const v1::DescribeRequest* request,
                                     v1::VerifierDescription* response) override;

 private:
  friend class ScoreJob;

  // Counts a request in, or says why it cannot be taken.
  absl::Status Admit(size_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  void Release(size_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  bool IsIdle() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return pending_requests_ == 0; }
  void Work();

  Composition* const composition_;
  const ServiceOptions options_;
  RewardMetrics metrics_;
  AnswerCache cache_;

  mutable absl::Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  size_t pending_requests_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t pending_bytes_ ABSL_GUARDED_BY(mutex_) = 0;

  BoundedQueue<std::shared_ptr<ScoreJob>> queue_;
  std::vector<std::thread> workers_;  // Last: they use the fields above.
};

}  // namespace rollcall::reward
