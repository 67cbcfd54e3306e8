#include "common/rpc/access_check.h"

#include <grpc/grpc_security_constants.h>
#include <grpcpp/security/auth_metadata_processor.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "common/base/logging.h"

namespace rollcall::rpc {
namespace {

class AccessCheck final : public grpc::AuthMetadataProcessor {
 public:
  AccessCheck(AccessPolicy policy, metrics::Registry* metrics) : policy_(std::move(policy)) {
    if (metrics == nullptr) return;
    denied_ = &metrics->AddCounter("rollcall_rpc_denied_total",
                                   "Calls refused by the access policy, whoever made them.");
  }

  // The decision is a look-up; another thread would cost more.
  bool IsBlocking() const override { return false; }

  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext* context, OutputMetadata*,
                       OutputMetadata*) override {
    std::vector<std::string> names;
    for (const char* property : {GRPC_PEER_URI_PROPERTY_NAME, GRPC_PEER_DNS_PROPERTY_NAME}) {
      for (const grpc::string_ref& value : context->FindPropertyValues(property)) {
        names.emplace_back(value.data(), value.size());
      }
    }
    const auto path = metadata.find(":path");
    const std::string method =
        path == metadata.end() ? "" : std::string(path->second.data(), path->second.size());
    const AccessDecision decision = policy_.Decide(names, method);
    if (decision.allowed) return grpc::Status::OK;
    if (denied_ != nullptr) denied_->Increment();
    // One line a second at most: a peer must not be able to fill the disk.
    const int64_t second = absl::ToUnixSeconds(absl::Now());
    if (logged_at_.exchange(second) != second) {
      LogWarning("call denied", {{"role", decision.role.empty() ? "none" : decision.role},
                                 {"method", method},
                                 {"reason", decision.reason}});
    }
    return grpc::Status(grpc::StatusCode::PERMISSION_DENIED, decision.reason);
  }

 private:
  const AccessPolicy policy_;
  metrics::Counter* denied_ = nullptr;
  std::atomic<int64_t> logged_at_ = 0;  // Unix time
};

}  // namespace

std::shared_ptr<grpc::AuthMetadataProcessor> MakeAccessCheck(AccessPolicy policy,
                                                             metrics::Registry* metrics) {
  return std::make_shared<AccessCheck>(std::move(policy), metrics);
}

}  // namespace rollcall::rpc
