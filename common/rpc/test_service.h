#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <functional>

#include "absl/synchronization/notification.h"
#include "common/rpc/status_conversion.h"
#include "rollcall/v1/logprob.grpc.pb.h"

namespace rollcall::rpc {

// A service whose calls do what a test sets. Configure it before the server starts.
class TestService : public v1::LogProb::CallbackService {
 public:
  // Answers Score with this status; `attempt` counts from 1 over all calls.
  std::function<absl::Status(int attempt)> answer = [](int) { return absl::OkStatus(); };
  // Score stays open until Finish() or until the call is cancelled.
  bool hold = false;
  absl::Notification entered;
  std::atomic<int> attempts = 0;

  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext*, const v1::LogProbRequest* request,
                                  v1::LogProbResponse* response) override {
    const int attempt = ++attempts;
    auto* reactor = new Reactor;
    response->set_manifest_hash(request->manifest_hash());
    if (hold) {
      reactor->finish_on_cancel = true;
      held.store(reactor);
      entered.Notify();
    } else {
      reactor->FinishOnce(ToGrpc(answer(attempt)));
    }
    return reactor;
  }

  // Answers how many calls of Score have come, as vocab_size.
  grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context,
                                     const v1::DescribeModelRequest*,
                                     v1::ModelDescription* response) override {
    response->set_vocab_size(static_cast<uint32_t>(attempts));
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  // Finishes the held call.
  void Finish() { held.load()->FinishOnce(grpc::Status::OK); }

 private:
  struct Reactor : grpc::ServerUnaryReactor {
    void FinishOnce(const grpc::Status& status) {
      if (!finished.exchange(true)) Finish(status);
    }
    void OnCancel() override {
      if (finish_on_cancel) FinishOnce(grpc::Status::CANCELLED);
    }
    void OnDone() override { delete this; }
    std::atomic<bool> finished = false;
    bool finish_on_cancel = false;
  };
  std::atomic<Reactor*> held = nullptr;
};

}  // namespace rollcall::rpc
