#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/rpc/service_main.h"

namespace rollcall::reward {

// The verifier of `config` that this process serves: the only one with a reward model, or the one
// called `name`. INVALID_ARGUMENT: there is none, or several and no name.
absl::StatusOr<v1::VerifierConfig> FindRewardModel(const v1::RunConfig& config,
                                                   const std::string& name);

// The server of that reward model, for rpc::RunService.
absl::StatusOr<std::unique_ptr<rpc::HostedService>> MakeModelService(
    const rpc::ServiceContext& context, const std::string& name);

}  // namespace rollcall::reward
