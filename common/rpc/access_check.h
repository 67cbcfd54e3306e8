#pragma once

#include <memory>

#include "common/metrics/registry.h"
#include "common/rpc/access_policy.h"

namespace grpc {
class AuthMetadataProcessor;
}

namespace rollcall::rpc {

// What asks the policy before each call of a server with TLS credentials: a denied one ends with
// PERMISSION_DENIED before any service sees it, is logged, and counted in
// rollcall_rpc_denied_total where `metrics` is given.
std::shared_ptr<grpc::AuthMetadataProcessor> MakeAccessCheck(AccessPolicy policy,
                                                             metrics::Registry* metrics);

}  // namespace rollcall::rpc
