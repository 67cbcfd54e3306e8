#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/shutdown.h"
#include "services/cli/process/supervisor.h"

namespace rollcall::cli {

// A generator of this machine that lives as long as this object, over a private Unix socket. Used
// from the main thread.
class LocalGenerator {
 public:
  // Starts it and waits until it serves `model` (a Hugging Face folder). `sets` are configuration
  // overrides. INVALID_ARGUMENT for a model it refuses, with its own words; CANCELLED when shutdown
  // is requested first.
  static absl::StatusOr<std::unique_ptr<LocalGenerator>> Start(const std::string& model,
                                                               const std::vector<std::string>& sets,
                                                               Shutdown& shutdown);
  ~LocalGenerator();

  std::shared_ptr<grpc::Channel> channel() const { return channel_; }

 private:
  explicit LocalGenerator(std::string folder) : folder_(std::move(folder)) {}
  absl::Status Launch(const std::string& model, const std::vector<std::string>& sets);
  absl::Status AwaitReady(Shutdown& shutdown);

  const std::string folder_;  // removed at the end
  std::string log_path_;
  std::unique_ptr<Supervisor> supervisor_;
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace rollcall::cli
