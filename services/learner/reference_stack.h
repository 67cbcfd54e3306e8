#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "rollcall/v1/config.pb.h"
#include "rollcall/v1/identity.pb.h"
#include "services/learner/batching/batch.h"
#include "services/learner/reference/ahead_source.h"
#include "services/learner/reference/reference_client.h"
#include "services/learner/reference/reference_logprobs.h"
#include "services/learner/run_control.h"
#include "services/learner/service_wait.h"

namespace rollcall::learner {

// What the references of a run on recorded preferences are held against.
struct TrainedPolicy {
  PolicyShape shape;
  v1::NumericsFingerprint numerics;
  // Of the weights as they are now.
  std::string manifest_hash;
  // Steps taken: 0 is the model that training starts from.
  uint64_t step = 0;
};

// The references of stages dpo and kto: found, checked, and asked for the log-probs of recorded
// completions ahead of the step that takes them. Made and used by the training thread but for
// Interrupt.
class ReferenceStack {
 public:
  // Connects and blocks until every reference answers, or rpc.connect_timeout.
  //   INVALID_ARGUMENT     a malformed address, or none
  //   FAILED_PRECONDITION  a reference of another vocabulary or tokenizer; references with different
  //                        weights; one that holds the very weights that were trained since the run
  //                        began, so that it follows the policy
  //   CANCELLED            the run is being stopped
  static absl::StatusOr<std::unique_ptr<ReferenceStack>> Start(const v1::RunConfig& config,
                                                               const TrainedPolicy& policy,
                                                               RunControl* control);

  // `inner` with its batches filled ahead, from the first one that is asked for on. Once.
  BatchSource* Prefetch(std::unique_ptr<BatchSource> inner, uint64_t last_step);

  // Fills a batch's reference log-probs, before the first batch is asked for. Blocks.
  absl::Status Fill(TrainBatch& batch) { return logprobs_->Fill(batch); }

  // Wakes what blocks here. Any thread, once Prefetch has returned.
  void Interrupt(const absl::Status& status);

 private:
  ReferenceStack() = default;

  std::unique_ptr<ReferenceClient> client_;
  std::unique_ptr<ReferenceLogprobs> logprobs_;
  std::unique_ptr<AheadSource> ahead_;
};

}  // namespace rollcall::learner
