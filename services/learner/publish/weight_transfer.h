#pragma once

#include <functional>
#include <memory>

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "rollcall/v1/weights.grpc.pb.h"
#include "services/learner/publish/prepared_version.h"

namespace rollcall::learner {

// Calls of rollcall.v1.Weights on one server, from one thread at a time; each blocks until its
// deadline at the latest.
class WeightTransfer {
 public:
  explicit WeightTransfer(const std::shared_ptr<grpc::Channel>& channel)
      : stub_(v1::Weights::NewStub(channel)) {}

  absl::StatusOr<v1::ServerState> GetState();

  // Begin, Push and Commit. OK: the server serves `version`. FAILED_PRECONDITION or
  // INVALID_ARGUMENT with fenced() set: the server will never take weights of this learner. Others
  // may pass.
  absl::Status Send(const PreparedVersion& version);

  // Whether the last Send was refused for good: another run, a later lineage, another architecture
  // or tokenizer.
  bool fenced() const { return fenced_; }

  // Ends the call in progress and every later one with CANCELLED. Any thread.
  void Cancel() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  absl::Status SendOnce(const PreparedVersion& version);
  absl::Status PushTensors(const PreparedVersion& version, const v1::BeginTransferResponse& begun);
  // Runs one call with a deadline, so that Cancel reaches it.
  absl::Status Call(absl::Duration timeout,
                    const std::function<grpc::Status(grpc::ClientContext&)>& call)
      ABSL_LOCKS_EXCLUDED(mutex_);

  const std::unique_ptr<v1::Weights::Stub> stub_;
  bool fenced_ = false;

  absl::Mutex mutex_;
  grpc::ClientContext* running_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace rollcall::learner
