#include "services/generator/weights_service.h"

#include <utility>

#include "common/rpc/status_conversion.h"

namespace rollcall::generator {
namespace {

// Begin and Commit calls under way; a learner has one at a time.
constexpr size_t kMaxTasks = 16;

// One Push stream: copies each chunk into the staging before it asks for the next.
class PushReactor final : public grpc::ServerReadReactor<v1::WeightChunk> {
 public:
  PushReactor(WeightStaging* staging, v1::PushResponse* response)
      : staging_(staging), response_(response) {
    StartRead(&chunk_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {  // the end of the stream, or of the connection
      response_->set_bytes_received(bytes_);
      Finish(grpc::Status::OK);
      return;
    }
    const absl::Status written = staging_->Write(chunk_);
    if (!written.ok()) {
      Finish(rpc::ToGrpc(written));
      return;
    }
    bytes_ += chunk_.data().size();
    StartRead(&chunk_);
  }

  void OnDone() override { delete this; }

 private:
  WeightStaging* const staging_;
  v1::PushResponse* const response_;
  v1::WeightChunk chunk_;
  uint64_t bytes_ = 0;
};

}  // namespace

WeightsService::WeightsService(WeightStaging* staging, Engine* engine, const RequestLimits& limits,
                               v1::NumericsFingerprint numerics,
                               std::function<void(bool)> on_serving)
    : staging_(staging),
      engine_(engine),
      limits_(limits),
      numerics_(std::move(numerics)),
      on_serving_(std::move(on_serving)),
      tasks_(kMaxTasks),
      worker_([this] {
        while (const auto task = tasks_.Pop()) (*task)();
      }) {}

WeightsService::~WeightsService() {
  tasks_.Close();
  worker_.join();
}

void WeightsService::Enqueue(grpc::ServerUnaryReactor* reactor, std::function<void()> task) {
  if (tasks_.TryPush(task)) return;
  reactor->Finish({grpc::StatusCode::UNAVAILABLE, "too many weight transfers at once; try again"});
}

grpc::ServerUnaryReactor* WeightsService::Begin(grpc::CallbackServerContext* context,
                                                const v1::BeginTransferRequest* request,
                                                v1::BeginTransferResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  Enqueue(reactor, [this, reactor, request, response] {
    const absl::StatusOr<v1::BeginTransferResponse> begun = staging_->Begin(*request);
    if (begun.ok()) *response = *begun;
    reactor->Finish(rpc::ToGrpc(begun.status()));
  });
  return reactor;
}

grpc::ServerReadReactor<v1::WeightChunk>* WeightsService::Push(grpc::CallbackServerContext*,
                                                               v1::PushResponse* response) {
  return new PushReactor(staging_, response);
}

grpc::ServerUnaryReactor* WeightsService::Commit(grpc::CallbackServerContext* context,
                                                 const v1::CommitRequest* request,
                                                 v1::CommitResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  Enqueue(reactor, [this, reactor, request, response] {
    auto weights = staging_->BeginCommit(*request);
    if (!weights.ok() || *weights == nullptr) {
      if (weights.ok()) *response->mutable_state() = State();
      reactor->Finish(rpc::ToGrpc(weights.status()));
      return;
    }
    engine_->SwapWeights(*std::move(weights),
                         [this, reactor, response](const absl::Status& swapped) {
                           staging_->EndCommit(swapped);
                           *response->mutable_state() = State();
                           on_serving_(response->state().has_version());
                           reactor->Finish(rpc::ToGrpc(swapped));
                         });
  });
  return reactor;
}

grpc::ServerUnaryReactor* WeightsService::Abort(grpc::CallbackServerContext* context,
                                                const v1::AbortRequest* request,
                                                v1::AbortResponse*) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(rpc::ToGrpc(staging_->Abort(request->transfer_id())));
  return reactor;
}

grpc::ServerUnaryReactor* WeightsService::GetState(grpc::CallbackServerContext* context,
                                                   const v1::GetStateRequest*,
                                                   v1::ServerState* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  *response = State();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

v1::ServerState WeightsService::State() const {
  const Engine::State engine = engine_->state();
  v1::ServerState state;
  if (engine.version.has_value()) *state.mutable_version() = *engine.version;
  state.set_ready(engine.version.has_value() && staging_->up_to_date());
  *state.mutable_numerics() = numerics_;
  state.set_architecture_hash(staging_->layout().architecture_hash);
  state.set_tokenizer_hash(staging_->layout().tokenizer_hash);
  state.set_running_samples(engine.running_samples);
  state.set_waiting_samples(engine.waiting_samples);
  state.set_kv_tokens_total(engine.kv_tokens_total);
  state.set_kv_tokens_free(engine.kv_tokens_free);
  state.set_max_running_samples(engine_->max_running_samples());
  state.set_engine_steps(engine.engine_steps);
  state.set_context_length(limits_.context_length);
  state.set_vocab_size(limits_.vocab_size);
  return state;
}

}  // namespace rollcall::generator
