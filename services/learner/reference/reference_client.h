#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "rollcall/v1/logprob.grpc.pb.h"
#include "services/learner/batching/batch.h"

namespace rollcall::learner {

// One reference, by the address it was given as.
struct ReferencePeer {
  std::string address;
  std::shared_ptr<grpc::Channel> channel;
};

struct ReferenceClientOptions {
  // Deadline of one call, the wait for the connection included.
  absl::Duration timeout = absl::Minutes(5);
  // Calls that may fail one after the other, of the same sequences, before Score gives up.
  uint32_t max_attempts = 5;
  // A full queue is waited for this long.
  absl::Duration stall_timeout = absl::Minutes(10);
};

// Asks references for the log-probs of recorded sequences at temperature 1. Several references share
// the work; one that fails is stood in for by the next.
//
// Score may be called by one thread at a time, Cancel by any.
class ReferenceClient {
 public:
  // At least one peer. `manifest_hash`: of the weights that every answer must come from; a reference
  // with others refuses.
  ReferenceClient(std::vector<ReferencePeer> peers, std::string manifest_hash,
                  const ReferenceClientOptions& options, Clock* clock = Clock::Real());

  // Nats, of each sequence's tokens from FirstScored on. Blocks.
  //   CANCELLED            Cancel was called
  //   FAILED_PRECONDITION  a reference holds other weights than it did when the run began
  //   else                 what the last of max_attempts calls said, with the reference's address
  absl::StatusOr<std::vector<std::vector<float>>> Score(
      std::span<const TrainSequence* const> sequences);

  // Ends the Score in progress and refuses later ones.
  void Cancel() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Part {
    size_t first = 0, count = 0;
  };
  static std::vector<Part> Divide(std::span<const TrainSequence* const> sequences);
  absl::Status ScorePart(std::span<const TrainSequence* const> sequences, size_t peer,
                         std::span<std::vector<float>> logprobs);
  absl::Status Call(size_t peer, const v1::LogProbRequest& request, v1::LogProbResponse& response,
                    absl::Duration* retry_after) ABSL_LOCKS_EXCLUDED(mutex_);
  // CANCELLED when cancelled meanwhile.
  absl::Status Wait(absl::Duration duration) ABSL_LOCKS_EXCLUDED(mutex_);

  const std::vector<ReferencePeer> peers_;
  const std::string manifest_hash_;
  const ReferenceClientOptions options_;
  Clock* const clock_;
  std::vector<std::unique_ptr<v1::LogProb::Stub>> stubs_;

  absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<grpc::ClientContext*> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rollcall::learner
