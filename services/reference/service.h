#pragma once

#include "common/base/clock.h"
#include "common/batching/batch_metrics.h"
#include "rollcall/v1/logprob.grpc.pb.h"
#include "services/reference/engine/scorer.h"

namespace rollcall::reference {

// rollcall.v1.LogProb over one frozen model. Handlers validate and enqueue; the engine thread
// answers. Thread-safe.
class LogProbService final : public v1::LogProb::CallbackService {
 public:
  // All must outlive the server this is registered with.
  LogProbService(const Engine* engine, BatchQueue* queue, batching::BatchMetrics* metrics,
                 Clock* clock)
      : engine_(engine), queue_(queue), metrics_(metrics), clock_(clock) {}

  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* context,
                                  const v1::LogProbRequest* request,
                                  v1::LogProbResponse* response) override;
  grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context,
                                     const v1::DescribeModelRequest* request,
                                     v1::ModelDescription* response) override;

 private:
  const Engine* const engine_;
  BatchQueue* const queue_;
  batching::BatchMetrics* const metrics_;
  Clock* const clock_;
};

}  // namespace rollcall::reference
