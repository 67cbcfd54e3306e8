#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "common/rpc/service_main.h"

namespace rollcall::reference {

// The reference service of a run, for rpc::RunService: the frozen model of reference.model_path (or
// model.path) behind rollcall.v1.LogProb.
absl::StatusOr<std::unique_ptr<rpc::HostedService>> MakeService(const rpc::ServiceContext& context);

}  // namespace rollcall::reference
