#pragma once

#include <grpcpp/channel.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/shutdown.h"
#include "common/text/tokenizer.h"
#include "rollcall/v1/config.pb.h"
#include "services/cli/process/supervisor.h"
#include "services/cli/train/run_layout.h"

namespace rollcall::cli {

// The generators of one model as child processes: generator.replicas of them, restarted when they die, each with its log
// in the run folder. Used from the main thread (see ChildProcess), the channels from any.
class GeneratorPool {
 public:
  // Starts them and waits until all serve. `config` is the run's; `model_path` the folder whose weights they serve;
  // `role` ("critic") names processes, logs and sockets. `notice` is told of every death and restart. The statuses of a generator that does not come up, with the end
  // of its log; CANCELLED when shutdown is requested first.
  static absl::StatusOr<std::unique_ptr<GeneratorPool>> Start(
      const v1::RunConfig& config, const std::string& model_path, const std::string& role,
      const RunLayout& layout, std::function<void(const std::string&)> notice, Shutdown& shutdown);
  ~GeneratorPool();

  const std::string& model_path() const { return model_path_; }
  const std::shared_ptr<const text::Tokenizer>& tokenizer() const { return tokenizer_; }
  const std::vector<std::shared_ptr<grpc::Channel>>& channels() const { return channels_; }
  // Longest sequence, prompt and completion, tokens.
  uint32_t context_length() const { return context_length_; }
  // Of the weights, hex; equal hashes are equal weights.
  const std::string& weights_hash() const { return weights_hash_; }

  // Looks after the processes without blocking; FAILED_PRECONDITION when one was given up, with the end of its log.
  absl::Status Check();

 private:
  GeneratorPool(std::string model_path, std::string config_path)
      : model_path_(std::move(model_path)), config_path_(std::move(config_path)) {}
  absl::Status Launch(const v1::RunConfig& config, const std::string& role, const RunLayout& layout,
                      std::function<void(const std::string&)> notice);
  absl::Status AwaitServing(const v1::RunConfig& config, Shutdown& shutdown);
  absl::Status Step(absl::Duration longest);

  const std::string model_path_;
  const std::string config_path_;
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::vector<std::string> log_paths_;
  std::unique_ptr<Supervisor> supervisor_;
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
  uint32_t context_length_ = 0;
  std::string weights_hash_;
};

}  // namespace rollcall::cli
