#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <thread>

#include "common/base/bounded_queue.h"
#include "common/base/clock.h"
#include "common/batching/batch_metrics.h"
#include "rollcall/v1/verifier.grpc.pb.h"
#include "services/reward/model/scorer.h"
#include "services/reward/model/sequence_encoder.h"
#include "services/reward/reward_metrics.h"

namespace rollcall::reward {

struct ModelServiceOptions {
  std::string name;     // of the verifier
  std::string version;  // as VerifierDescription's
  size_t max_waiting_sequences = 4096;
};

class ModelCall;

// rollcall.v1.Verifier over one reward model. RPC threads check and take places in the queue, one
// thread tokenises, the engine's scores. A sample that cannot be scored (too long for the model, no
// chat template) is an `error` and a failed forward pass an RPC error: neither is ever a score.
// Thread-safe.
class RewardModelService final : public v1::Verifier::CallbackService {
 public:
  // All must outlive the server this is registered with; `queue` is the engine's.
  RewardModelService(ModelServiceOptions options, SequenceEncoder encoder, ModelQueue* queue,
                     batching::BatchMetrics* metrics, OutcomeMetrics* outcomes, Clock* clock);
  // Tokenises what was admitted, and joins.
  ~RewardModelService() override;

  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* context,
                                  const v1::ScoreRequest* request,
                                  v1::ScoreResponse* response) override;
  grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context,
                                     const v1::DescribeRequest* request,
                                     v1::VerifierDescription* response) override;

 private:
  void EncodeCalls();

  const ModelServiceOptions options_;
  const SequenceEncoder encoder_;
  ModelQueue* const queue_;
  batching::BatchMetrics* const metrics_;
  OutcomeMetrics* const outcomes_;
  Clock* const clock_;

  BoundedQueue<std::shared_ptr<ModelCall>> to_encode_;
  std::thread encoder_thread_;  // Last: it uses the fields above.
};

}  // namespace rollcall::reward
