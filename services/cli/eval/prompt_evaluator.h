#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/tokenizer.h"
#include "rollcall/v1/config.pb.h"
#include "rollcall/v1/generator.grpc.pb.h"
#include "rollcall/v1/rollout.pb.h"
#include "rollcall/v1/verifier.grpc.pb.h"
#include "services/cli/eval/sample_log.h"

namespace rollcall::cli {

// Samples one prompt from a generator and has the completions scored by a reward service.
// Immutable; any number of threads may evaluate.
class PromptEvaluator {
 public:
  // `config`: sampling, evaluation, reward, seed and deadlines.
  PromptEvaluator(const v1::RunConfig& config, std::shared_ptr<const text::Tokenizer> tokenizer,
                  const std::shared_ptr<grpc::Channel>& generator,
                  const std::shared_ptr<grpc::Channel>& reward);

  // Blocks. Noise is a function of seed, `ordinal` and the sample's index alone. The statuses of
  // both services; UNAVAILABLE also where a verifier failed (which is never a score of 0);
  // CANCELLED once `stop` is set.
  absl::StatusOr<std::vector<EvaluatedSample>> Evaluate(uint64_t ordinal,
                                                        const v1::PromptRow& prompt,
                                                        const std::atomic<bool>& stop) const;

 private:
  v1::GenerateRequest MakeRequest(uint64_t ordinal, const v1::PromptRow& prompt) const;
  absl::StatusOr<v1::ScoreRequest> Sample(uint64_t ordinal, const v1::PromptRow& prompt,
                                          const std::atomic<bool>& stop) const;
  absl::StatusOr<v1::GroupResult> Score(v1::ScoreRequest& request) const;

  const v1::RunConfig config_;
  const std::shared_ptr<const text::Tokenizer> tokenizer_;
  const std::unique_ptr<v1::Generator::Stub> generator_;
  const std::unique_ptr<v1::Verifier::Stub> verifier_;
};

}  // namespace rollcall::cli
