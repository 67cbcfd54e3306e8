#include "common/rpc/call_counter.h"

#include <grpcpp/server_builder.h>
#include <grpcpp/support/server_interceptor.h>

#include <string_view>
#include <utility>
#include <vector>

namespace rollcall::rpc {
namespace {

using grpc::experimental::Interceptor;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerInterceptorFactoryInterface;
using grpc::experimental::ServerRpcInfo;

bool OnlyWatches(std::string_view method) {
  return method.starts_with("/grpc.health.") || method.starts_with("/grpc.reflection.");
}

// Lives as long as its call.
class CountedCall final : public Interceptor {
 public:
  explicit CountedCall(std::shared_ptr<CallCounter> counter) : counter_(std::move(counter)) {
    counter_->Enter();
  }
  ~CountedCall() override { counter_->Leave(); }
  void Intercept(InterceptorBatchMethods* methods) override { methods->Proceed(); }

 private:
  const std::shared_ptr<CallCounter> counter_;
};

class Factory final : public ServerInterceptorFactoryInterface {
 public:
  explicit Factory(std::shared_ptr<CallCounter> counter) : counter_(std::move(counter)) {}
  Interceptor* CreateServerInterceptor(ServerRpcInfo* info) override {
    return OnlyWatches(info->method()) ? nullptr : new CountedCall(counter_);
  }

 private:
  const std::shared_ptr<CallCounter> counter_;
};

}  // namespace

std::shared_ptr<CallCounter> CallCounter::Install(grpc::ServerBuilder* builder) {
  auto counter = std::make_shared<CallCounter>();
  std::vector<std::unique_ptr<ServerInterceptorFactoryInterface>> factories;
  factories.push_back(std::make_unique<Factory>(counter));
  builder->experimental().SetInterceptorCreators(std::move(factories));
  return counter;
}

void CallCounter::Enter() {
  absl::MutexLock lock(&mutex_);
  ++running_;
}

void CallCounter::Leave() {
  absl::MutexLock lock(&mutex_);
  --running_;
}

int CallCounter::running() const {
  absl::MutexLock lock(&mutex_);
  return running_;
}

bool CallCounter::AwaitIdle(absl::Time deadline) const {
  absl::MutexLock lock(&mutex_);
  auto idle = [this] { return running_ == 0; };
  return mutex_.AwaitWithDeadline(absl::Condition(&idle), deadline);
}

}  // namespace rollcall::rpc
