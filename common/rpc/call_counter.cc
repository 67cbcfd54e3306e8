#include "common/rpc/call_counter.h"

#include <grpcpp/server_builder.h>
#include <grpcpp/support/server_interceptor.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "common/rpc/call_metrics.h"

namespace rollcall::rpc {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::Interceptor;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerInterceptorFactoryInterface;
using grpc::experimental::ServerRpcInfo;

bool OnlyWatches(std::string_view method) { return method.starts_with("/grpc.health."); }

// Lives as long as its call.
class CountedCall final : public Interceptor {
 public:
  CountedCall(std::shared_ptr<CallCounter> counter, std::shared_ptr<CallMetrics> metrics,
              std::string_view method)
      : counter_(std::move(counter)), metrics_(std::move(metrics)), method_(method) {
    counter_->Enter();
  }
  ~CountedCall() override {
    // A call whose status was never sent was cancelled by its peer.
    if (metrics_ != nullptr) metrics_->Record(method_, code_, absl::Now() - start_);
    counter_->Leave();
  }
  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      code_ = static_cast<absl::StatusCode>(methods->GetSendStatus().error_code());
    }
    methods->Proceed();
  }

 private:
  const std::shared_ptr<CallCounter> counter_;
  const std::shared_ptr<CallMetrics> metrics_;
  const std::string method_;
  const absl::Time start_ = absl::Now();
  absl::StatusCode code_ = absl::StatusCode::kCancelled;
};

class Factory final : public ServerInterceptorFactoryInterface {
 public:
  Factory(std::shared_ptr<CallCounter> counter, std::shared_ptr<CallMetrics> metrics)
      : counter_(std::move(counter)), metrics_(std::move(metrics)) {}
  Interceptor* CreateServerInterceptor(ServerRpcInfo* info) override {
    if (OnlyWatches(info->method())) return nullptr;
    return new CountedCall(counter_, metrics_, info->method());
  }

 private:
  const std::shared_ptr<CallCounter> counter_;
  const std::shared_ptr<CallMetrics> metrics_;
};

}  // namespace

std::shared_ptr<CallCounter> CallCounter::Install(grpc::ServerBuilder* builder,
                                                  metrics::Registry* metrics) {
  auto counter = std::make_shared<CallCounter>();
  auto exported = metrics == nullptr ? nullptr : std::make_shared<CallMetrics>(metrics);
  std::vector<std::unique_ptr<ServerInterceptorFactoryInterface>> factories;
  factories.push_back(std::make_unique<Factory>(counter, std::move(exported)));
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
