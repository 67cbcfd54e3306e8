#pragma once

#include <grpcpp/channel.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/tokenizer.h"
#include "rollcall/v1/config.pb.h"
#include "rollcall/v1/generator.grpc.pb.h"
#include "services/cli/rlaif/active_calls.h"

namespace rollcall::cli {

struct Completion {
  std::string text;  // without the token or the string that ended it
  uint32_t tokens = 0;
  v1::FinishReason finish_reason = v1::FINISH_REASON_UNSPECIFIED;

  // It did not come to an end by itself.
  bool cut_off() const {
    return finish_reason == v1::FINISH_REASON_LENGTH || finish_reason == v1::FINISH_REASON_CONTEXT;
  }
};

struct GeneratorClientOptions {
  // Tries of a call that fails for the generator's sake: it died, is full or took too long.
  uint32_t attempts = 5;
  absl::Duration call_time = absl::Minutes(10);
  // How long a generator that is not there is waited for before each further try.
  absl::Duration recovery_time = absl::Minutes(2);
};

// Asks generators of equal weights, in turn. A call that a dying generator left unanswered is made again and gives the
// same tokens. Thread-safe; blocks.
class GeneratorClient {
 public:
  // `calls` must outlive the client; stopping it ends its calls with CANCELLED.
  GeneratorClient(const std::vector<std::shared_ptr<grpc::Channel>>& channels,
                  std::shared_ptr<const text::Tokenizer> tokenizer, ActiveCalls& calls,
                  const GeneratorClientOptions& options);

  // The group's completions, by sample index. The generators' statuses after the last try.
  absl::StatusOr<std::vector<Completion>> Sample(const v1::GenerateRequest& request) const;

  // Log-probs in nats, at temperature 1, of `first` and of `second` as what follows the prompt. Each holds at least one
  // token.
  absl::StatusOr<std::pair<double, double>> Compare(std::span<const uint32_t> prompt,
                                                    std::span<const uint32_t> first,
                                                    std::span<const uint32_t> second) const;

 private:
  struct Answer;
  absl::StatusOr<Answer> Ask(const v1::GenerateRequest& request) const;
  absl::StatusOr<Answer> AskOnce(size_t channel, const v1::GenerateRequest& request) const;
  // Waits until the generator serves again.
  void AwaitRecovery(size_t channel) const;
  absl::StatusOr<double> LogProbOf(std::span<const uint32_t> prompt,
                                   std::span<const uint32_t> continuation) const;

  const std::vector<std::shared_ptr<grpc::Channel>> channels_;
  std::vector<std::unique_ptr<v1::Generator::Stub>> stubs_;
  const std::shared_ptr<const text::Tokenizer> tokenizer_;
  ActiveCalls& calls_;
  const GeneratorClientOptions options_;
  mutable std::atomic<size_t> next_ = 0;
};

// A request for `samples` completions of a prompt under `sampling`. `group_id` names its noise.
v1::GenerateRequest SampleRequestOf(const v1::SamplingSection& sampling,
                                    std::span<const uint32_t> prompt, uint32_t samples,
                                    uint64_t seed, uint64_t group_id);

}  // namespace rollcall::cli
