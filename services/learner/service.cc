#include "services/learner/service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/rpc/status_conversion.h"

namespace rollcall::learner {
namespace {

// Of the contract: how far a watcher may fall behind what it could have read.
constexpr size_t kLongestBacklog = 1024;

// Writes the log's entries from one index on, as they come. The reactor deletes itself; what
// outlives it is this state, which the log's listener shares.
class Watcher final : public grpc::ServerWriteReactor<v1::StepMetrics> {
 public:
  Watcher(std::shared_ptr<MetricsLog> log, uint64_t from_step) : state_(std::make_shared<State>()) {
    state_->reactor = this;
    state_->next = log->IndexOf(from_step);
    state_->attached_at = log->size();
    state_->log = std::move(log);
    state_->Advance();
    state_->log->Listen([state = state_] { return state->Advance(); });
    // An entry may have come between the two lines above.
    state_->Advance();
  }

  void OnWriteDone(bool ok) override {
    const std::shared_ptr<State> state = state_;  // Finish ends the reactor
    {
      absl::MutexLock lock(&state->mutex);
      state->writing = false;
      if (!ok) state->broken = true;
    }
    state->Advance();
  }
  void OnCancel() override {
    const std::shared_ptr<State> state = state_;
    {
      absl::MutexLock lock(&state->mutex);
      state->broken = true;
    }
    state->Advance();
  }
  void OnDone() override { delete this; }

 private:
  struct State {
    absl::Mutex mutex;
    Watcher* reactor ABSL_GUARDED_BY(mutex) = nullptr;  // null once finished
    size_t next ABSL_GUARDED_BY(mutex) = 0;
    size_t attached_at ABSL_GUARDED_BY(mutex) = 0;
    bool writing ABSL_GUARDED_BY(mutex) = false;
    bool broken ABSL_GUARDED_BY(mutex) = false;
    bool overrun ABSL_GUARDED_BY(mutex) = false;
    v1::StepMetrics message ABSL_GUARDED_BY(mutex);
    std::shared_ptr<MetricsLog> log;

    // Starts the next write or finishes; false when nothing more is to be done. StartWrite and
    // Finish only queue work in gRPC, so they may be called under the lock, which keeps the reactor
    // alive.
    bool Advance() {
      const size_t size = log->size();
      const bool closed = log->closed();
      absl::MutexLock lock(&mutex);
      if (reactor == nullptr) return false;
      if (writing) {
        if (size > std::max(next, attached_at) + kLongestBacklog) overrun = true;
        return true;
      }
      if (broken || overrun || (closed && next >= size)) {
        reactor->Finish(Result());
        reactor = nullptr;
        return false;
      }
      if (next < size) {
        message = log->At(next++);
        writing = true;
        reactor->StartWrite(&message);
      }
      return true;
    }

    grpc::Status Result() ABSL_SHARED_LOCKS_REQUIRED(mutex) {
      if (broken) return grpc::Status(grpc::CANCELLED, "the watcher went away");
      if (!overrun) return grpc::Status::OK;
      return grpc::Status(grpc::RESOURCE_EXHAUSTED,
                          absl::StrCat("fell behind by more than ", kLongestBacklog,
                                       " messages; watch again from a later step"));
    }
  };

  const std::shared_ptr<State> state_;
};

class RefusedWatcher final : public grpc::ServerWriteReactor<v1::StepMetrics> {
 public:
  explicit RefusedWatcher(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

}  // namespace

void LearnerRpcService::SetMetricsLog(std::shared_ptr<MetricsLog> log) {
  absl::MutexLock lock(&mutex_);
  log_ = std::move(log);
}

grpc::ServerUnaryReactor* LearnerRpcService::AnswerStatus(grpc::CallbackServerContext* context,
                                                          v1::LearnerStatus* response) {
  *response = control_->status();
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerUnaryReactor* LearnerRpcService::GetStatus(grpc::CallbackServerContext* context,
                                                       const v1::GetStatusRequest*,
                                                       v1::LearnerStatus* response) {
  return AnswerStatus(context, response);
}

grpc::ServerWriteReactor<v1::StepMetrics>* LearnerRpcService::WatchMetrics(
    grpc::CallbackServerContext*, const v1::WatchMetricsRequest* request) {
  std::shared_ptr<MetricsLog> log;
  {
    absl::MutexLock lock(&mutex_);
    log = log_;
  }
  if (log == nullptr) {
    return new RefusedWatcher(
        grpc::Status(grpc::UNAVAILABLE, "the run folder is not open yet; try again"));
  }
  return new Watcher(std::move(log), request->from_step());
}

grpc::ServerUnaryReactor* LearnerRpcService::Pause(grpc::CallbackServerContext* context,
                                                   const v1::PauseRequest*,
                                                   v1::LearnerStatus* response) {
  control_->Pause();
  return AnswerStatus(context, response);
}

grpc::ServerUnaryReactor* LearnerRpcService::Resume(grpc::CallbackServerContext* context,
                                                    const v1::ResumeRequest*,
                                                    v1::LearnerStatus* response) {
  control_->Resume();
  return AnswerStatus(context, response);
}

grpc::ServerUnaryReactor* LearnerRpcService::SaveCheckpoint(grpc::CallbackServerContext* context,
                                                            const v1::SaveCheckpointRequest*,
                                                            v1::SaveCheckpointResponse* response) {
  // The default reactor lives until its Finish, whether or not the caller waits.
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  control_->RequestCheckpoint([reactor, response](absl::StatusOr<std::string> folder) {
    if (folder.ok()) response->set_checkpoint_dir(*folder);
    reactor->Finish(rpc::ToGrpc(folder.status()));
  });
  return reactor;
}

grpc::ServerUnaryReactor* LearnerRpcService::Stop(grpc::CallbackServerContext* context,
                                                  const v1::StopRequest* request,
                                                  v1::LearnerStatus* response) {
  control_->Stop(request->reason().empty() ? "asked by a client" : request->reason());
  return AnswerStatus(context, response);
}

}  // namespace rollcall::learner
