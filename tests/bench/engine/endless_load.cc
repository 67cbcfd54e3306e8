#include "tests/bench/engine/endless_load.h"

#include <cstdlib>
#include <iostream>

#include "common/base/philox.h"

namespace rollcall::bench {

EndlessLoad::EndlessLoad(v1::Generator::Stub* stub, int clients) : stub_(stub), calls_(clients) {
  for (int i = 0; i < clients; ++i) {
    clients_.emplace_back([this, i] { Run(static_cast<size_t>(i)); });
  }
}

EndlessLoad::~EndlessLoad() {
  {
    absl::MutexLock lock(&mutex_);
    ended_ = true;
    for (const auto& call : calls_) {
      if (call != nullptr) call->TryCancel();
    }
  }
  for (std::thread& client : clients_) client.join();
}

grpc::ClientContext* EndlessLoad::NextCall(size_t client) {
  absl::MutexLock lock(&mutex_);
  if (ended_) return nullptr;
  calls_[client] = std::make_unique<grpc::ClientContext>();
  return calls_[client].get();
}

void EndlessLoad::Run(size_t client) {
  PhiloxStream random(client, 31);
  for (uint64_t turn = 0;; ++turn) {
    v1::GenerateRequest request;
    request.mutable_key()->set_purpose(v1::RANDOM_PURPOSE_INTERACTIVE);
    request.mutable_key()->set_group_id(client << 32 | turn);
    for (int i = 0; i < 64; ++i) {
      request.add_prompt_token_ids(3 + static_cast<uint32_t>(random.Below(480)));
    }
    request.set_num_samples(1);
    request.mutable_sampling()->set_max_tokens(32 + static_cast<uint32_t>(random.Below(97)));
    request.mutable_stop()->set_ignore_eos(true);
    grpc::ClientContext* const context = NextCall(client);
    if (context == nullptr) return;
    const auto reader = stub_->Generate(context, request);
    v1::GenerateResponse message;
    while (reader->Read(&message)) {
      for (const v1::SampleDelta& delta : message.deltas()) tokens_ += delta.token_ids_size();
    }
    const grpc::Status status = reader->Finish();
    if (status.ok() || status.error_code() == grpc::StatusCode::CANCELLED) continue;
    std::cerr << "engine_worker: " << status.error_message() << "\n";
    std::exit(1);
  }
}

}  // namespace rollcall::bench
