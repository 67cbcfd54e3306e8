#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/shutdown.h"
#include "rollcall/v1/generator.pb.h"
#include "services/cli/generate/generate_flags.h"

namespace rollcall::cli {

// Asks the generator at `channel` and prints its completions on standard output: one as it comes,
// several one after the other as they end, or as JSON lines, as the flags say. Returns the text of
// the first. The generator's statuses; CANCELLED when shutdown is requested.
absl::StatusOr<std::string> PrintCompletions(const std::shared_ptr<grpc::Channel>& channel,
                                             const v1::GenerateRequest& request,
                                             const GenerateFlags& flags, Shutdown& shutdown);

}  // namespace rollcall::cli
