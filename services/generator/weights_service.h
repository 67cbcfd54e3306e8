#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <thread>

#include "common/base/bounded_queue.h"
#include "rollcall/v1/weights.grpc.pb.h"
#include "services/generator/engine/engine.h"
#include "services/generator/request_validation.h"
#include "services/generator/weights/weight_staging.h"

namespace rollcall::generator {

// rollcall.v1.Weights: lets a learner fill the staging, and the engine swap what was committed.
// Allocating and hashing gigabytes happens on a thread of its own, so that reactions never block.
// Fetch answers UNIMPLEMENTED, as
// the contract says.
class WeightsService final : public v1::Weights::CallbackService {
 public:
  // `staging` and `engine` must outlive the calls. `on_serving(ready)`: told whether the server
  // holds weights, after each commit; from any thread, must not block.
  WeightsService(WeightStaging* staging, Engine* engine, const RequestLimits& limits,
                 v1::NumericsFingerprint numerics, std::function<void(bool)> on_serving);
  ~WeightsService() override;

  grpc::ServerUnaryReactor* Begin(grpc::CallbackServerContext* context,
                                  const v1::BeginTransferRequest* request,
                                  v1::BeginTransferResponse* response) override;
  grpc::ServerReadReactor<v1::WeightChunk>* Push(grpc::CallbackServerContext* context,
                                                 v1::PushResponse* response) override;
  grpc::ServerUnaryReactor* Commit(grpc::CallbackServerContext* context,
                                   const v1::CommitRequest* request,
                                   v1::CommitResponse* response) override;
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context,
                                  const v1::AbortRequest* request,
                                  v1::AbortResponse* response) override;
  grpc::ServerUnaryReactor* GetState(grpc::CallbackServerContext* context,
                                     const v1::GetStateRequest* request,
                                     v1::ServerState* response) override;

 private:
  // Runs `task` on the worker; answers the call with UNAVAILABLE where it cannot.
  void Enqueue(grpc::ServerUnaryReactor* reactor, std::function<void()> task);
  v1::ServerState State() const;

  WeightStaging* const staging_;
  Engine* const engine_;
  const RequestLimits limits_;
  const v1::NumericsFingerprint numerics_;
  const std::function<void(bool)> on_serving_;
  BoundedQueue<std::function<void()>> tasks_;
  std::thread worker_;  // last: it uses the fields above
};

}  // namespace rollcall::generator
