#include "services/learner/rollout/calls.h"

#include <utility>

#include "absl/time/clock.h"
#include "common/rpc/retry_after.h"
#include "common/rpc/status_conversion.h"

namespace rollcall::learner {
namespace {

CallOutcome OutcomeOf(const grpc::Status& status, const grpc::ClientContext& context) {
  CallOutcome outcome{.status = rpc::FromGrpc(status), .retry_after = std::nullopt};
  if (status.ok()) return outcome;
  outcome.retry_after = rpc::RetryAfter(context);
  return outcome;
}

// A context holds its channel, and a channel that is destroyed on the thread that runs gRPC's callbacks makes that thread wait
// for itself (gRPC 1.51). So a call lets go of its context before it says that it is done: whoever waits for the last
// `done` may then destroy the channels.

// One Generate stream; deletes itself when gRPC is done with it.
class GenerateStream final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  GenerateStream(v1::GenerateRequest request,
                 std::function<bool(const v1::GenerateResponse&)> on_message,
                 std::function<void(CallOutcome)> done)
      : request_(std::move(request)),
        on_message_(std::move(on_message)),
        done_(std::move(done)),
        context_(std::make_shared<grpc::ClientContext>()) {}

  CancelCall Start(v1::Generator::Stub& stub, absl::Duration timeout) {
    context_->set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    std::shared_ptr<grpc::ClientContext> context = context_;
    stub.async()->Generate(context.get(), &request_, this);
    StartRead(&message_);
    StartCall();  // `this` may be gone from here on
    return [context = std::move(context)] { context->TryCancel(); };
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (!on_message_(message_)) {
      context_->TryCancel();
      return;
    }
    message_.Clear();
    StartRead(&message_);
  }

  void OnDone(const grpc::Status& status) override {
    CallOutcome outcome = OutcomeOf(status, *context_);
    const std::function<void(CallOutcome)> done = std::move(done_);
    delete this;
    done(std::move(outcome));
  }

 private:
  const v1::GenerateRequest request_;
  const std::function<bool(const v1::GenerateResponse&)> on_message_;
  std::function<void(CallOutcome)> done_;
  const std::shared_ptr<grpc::ClientContext> context_;
  v1::GenerateResponse message_;
};

// What a unary call must keep alive until it ends.
template <typename Request, typename Response>
struct UnaryCall {
  grpc::ClientContext context;
  Request request;
  Response response;
};

template <typename Request, typename Response, typename Start>
CancelCall StartUnary(Request request, absl::Duration timeout,
                      std::function<void(CallOutcome, Response)> done, Start start) {
  auto call = std::make_shared<UnaryCall<Request, Response>>();
  call->request = std::move(request);
  call->context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  call->context.set_wait_for_ready(true);
  start(&call->context, &call->request, &call->response,
        [call, done = std::move(done)](const grpc::Status& status) mutable {
          CallOutcome outcome = OutcomeOf(status, call->context);
          Response response = std::move(call->response);
          call.reset();
          done(std::move(outcome), std::move(response));
        });
  return [call] { call->context.TryCancel(); };
}

}  // namespace

CancelCall StartGenerate(v1::Generator::Stub& stub, v1::GenerateRequest request,
                         absl::Duration timeout,
                         std::function<bool(const v1::GenerateResponse&)> on_message,
                         std::function<void(CallOutcome)> done) {
  auto* stream = new GenerateStream(std::move(request), std::move(on_message), std::move(done));
  return stream->Start(stub, timeout);
}

CancelCall StartScore(v1::Verifier::Stub& stub, v1::ScoreRequest request, absl::Duration timeout,
                      std::function<void(CallOutcome, v1::ScoreResponse)> done) {
  request.set_deadline_seconds(absl::ToDoubleSeconds(timeout));
  return StartUnary<v1::ScoreRequest, v1::ScoreResponse>(
      std::move(request), timeout, std::move(done),
      [&stub](grpc::ClientContext* context, const v1::ScoreRequest* in, v1::ScoreResponse* out,
              std::function<void(grpc::Status)> callback) {
        stub.async()->Score(context, in, out, std::move(callback));
      });
}

CancelCall StartLogProbs(v1::LogProb::Stub& stub, v1::LogProbRequest request,
                         absl::Duration timeout,
                         std::function<void(CallOutcome, v1::LogProbResponse)> done) {
  return StartUnary<v1::LogProbRequest, v1::LogProbResponse>(
      std::move(request), timeout, std::move(done),
      [&stub](grpc::ClientContext* context, const v1::LogProbRequest* in, v1::LogProbResponse* out,
              std::function<void(grpc::Status)> callback) {
        stub.async()->Score(context, in, out, std::move(callback));
      });
}

}  // namespace rollcall::learner
