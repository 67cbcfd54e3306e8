#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "common/rpc/service_main.h"

namespace rollcall::generator {

// The generator as a service of its own process: Generator and Weights over one engine. Start loads
// the model.
absl::StatusOr<std::unique_ptr<rpc::HostedService>> MakeGenerator(
    const rpc::ServiceContext& context);

}  // namespace rollcall::generator
