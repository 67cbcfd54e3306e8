#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <unordered_map>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "rollcall/v1/generator.grpc.pb.h"
#include "services/generator/engine/engine.h"
#include "services/generator/engine/generation_request.h"

namespace rollcall::generator {

// One Generate call: takes what the engine makes and writes it as fast as the client reads. At most
// one write is under way; what is made meanwhile gathers in messages of bounded size, so a slow
// reader gets fewer and larger ones and holds nobody up. What can gather is bounded by num_samples
// * max_tokens.
//
// Finishes exactly once: after the last message, or at once when the call is cancelled, times out
// or its peer is gone; then the engine is told. Thread-safe. It keeps itself alive until gRPC is
// done with it.
class GenerateStream final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                             public RequestSink {
 public:
  // `engine` must outlive the call.
  static std::shared_ptr<GenerateStream> Create(Engine* engine,
                                                grpc::CallbackServerContext* context,
                                                v1::NumericsFingerprint numerics);

  // Hands the call's request to the engine, or ends the call where it is refused.
  void Start(absl::StatusOr<GenerationRequest> request) ABSL_LOCKS_EXCLUDED(mutex_);

  // RequestSink, on the engine's thread.
  void OnAdmitted(const v1::PolicyVersion& version) override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnOutput(RequestOutput output) override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnDone(absl::Status status) override ABSL_LOCKS_EXCLUDED(mutex_);

  // gRPC reactions.
  void OnWriteDone(bool ok) override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnCancel() override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnDone() override;

 private:
  struct Message {
    v1::GenerateResponse response;
    size_t bytes = 0;                            // an upper estimate
    std::unordered_map<uint32_t, int> delta_of;  // newest delta of a sample, by index
  };

  GenerateStream(Engine* engine, grpc::CallbackServerContext* context,
                 v1::NumericsFingerprint numerics)
      : engine_(engine), context_(context), numerics_(std::move(numerics)) {}

  Message& RoomyMessage() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddPromptLogProbs(const RequestOutput& output) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddToken(TokenOutput& token) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Abandon() ABSL_LOCKS_EXCLUDED(mutex_);
  // Starts the next write or finishes, if it is time.
  void Pump() ABSL_LOCKS_EXCLUDED(mutex_);
  grpc::Status FinalStatus(const absl::Status& status);

  Engine* const engine_;
  grpc::CallbackServerContext* const context_;
  const v1::NumericsFingerprint numerics_;
  // Which columns the request's samples have; set before the engine knows it.
  bool reshapes_ = false;
  bool keeps_mass_ = false;
  bool has_alternatives_ = false;
  std::shared_ptr<GenerateStream> self_;

  absl::Mutex mutex_;
  std::optional<Engine::RequestId> request_id_ ABSL_GUARDED_BY(mutex_);
  std::deque<Message> pending_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> result_ ABSL_GUARDED_BY(mutex_);
  bool abandoned_ ABSL_GUARDED_BY(mutex_) = false;  // cancelled, timed out or disconnected
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  v1::GenerateResponse in_flight_;  // belongs to gRPC while writing_
};

}  // namespace rollcall::generator
