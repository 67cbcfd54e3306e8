#pragma once

#include <grpcpp/client_context.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "rollcall/v1/generator.grpc.pb.h"

namespace rollcall::bench {

// Clients of a generator that each ask for one sample after another, prompts of 64 tokens and
// completions of 32 to 128, until this object goes. What runs then is cancelled.
class EndlessLoad {
 public:
  EndlessLoad(v1::Generator::Stub* stub, int clients);
  ~EndlessLoad();
  EndlessLoad(const EndlessLoad&) = delete;
  EndlessLoad& operator=(const EndlessLoad&) = delete;

  // Tokens that came so far.
  int64_t tokens() const { return tokens_; }

 private:
  void Run(size_t client);
  // The context of the client's next call; null once the load ends.
  grpc::ClientContext* NextCall(size_t client) ABSL_LOCKS_EXCLUDED(mutex_);

  v1::Generator::Stub* const stub_;
  std::atomic<int64_t> tokens_{0};
  absl::Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::unique_ptr<grpc::ClientContext>> calls_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> clients_;
};

}  // namespace rollcall::bench
