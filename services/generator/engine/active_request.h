#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/stream_decoder.h"
#include "common/text/tokenizer.h"
#include "services/generator/engine/generation_request.h"
#include "services/generator/scheduler/scheduler.h"

namespace rollcall::generator {

// A request while its samples are being made: their tokens, where they stand with the stop
// conditions, and what was made since the last TakeOutput. Samples are named by slot, their order
// in the request. Used by one thread at a time.
class ActiveRequest {
 public:
  // Replays the prefixes through the stop conditions. `tokenizer` may be null where the request has
  // no stop strings and wants no text. INVALID_ARGUMENT: a prefix ends its completion.
  static absl::StatusOr<std::unique_ptr<ActiveRequest>> Create(GenerationRequest request,
                                                               const text::Tokenizer* tokenizer,
                                                               std::shared_ptr<RequestSink> sink);

  const GenerationRequest& request() const { return request_; }
  RequestSink& sink() const { return *sink_; }
  GroupSpec group_spec() const;
  uint32_t num_samples() const { return static_cast<uint32_t>(samples_.size()); }

  // Appends tokens [begin, begin + count) of the trajectory: prompt, then completion.
  void AppendTokens(uint32_t slot, uint32_t begin, uint32_t count,
                    std::vector<uint32_t>* tokens) const;

  // The number that decides the token at `position` of the trajectory.
  double UniformAt(uint32_t slot, uint32_t position) const;

  // What comes before a sample's next token. Valid until the next Append.
  TokenHistory History(uint32_t slot) const {
    return {.prompt = request_.prompt, .completion = samples_[slot].completion};
  }

  // A drawn token and its log-probs, in nats.
  struct Drawn {
    SampledToken sampled;
    float logprob = 0;      // plain softmax at the sampling temperature
    bool mixed_kv = false;  // over keys and values of several versions
    v1::TokenAlternatives alternatives;
  };
  // One more token; true when it ends the sample. INTERNAL: the tokenizer failed.
  absl::StatusOr<bool> Append(uint32_t slot, Drawn drawn, const v1::PolicyVersion& version);

  // How many of the prompt's log-probs are still wanted from a chunk that begins at or before
  // prompt token `begin` and whose rows end before token `end`: those of the rows
  // [first, first + count). A row scores the token after it.
  struct PromptRows {
    uint32_t first = 0;
    uint32_t count = 0;
  };
  PromptRows WantedPromptRows(uint32_t begin, uint32_t end) const;
  // Log-probs of the tokens after the wanted rows, in order.
  void AppendPromptLogProbs(std::span<const float> logprobs, const v1::PolicyVersion& version);
  // The weights changed: log-probs of a prompt that is not complete start again.
  void RestartPromptLogProbs();

  bool done() const { return ended_ == samples_.size(); }
  // Of what TakeOutput would give.
  bool has_tokens() const { return !output_.tokens.empty(); }
  bool has_output() const { return !output_.tokens.empty() || !output_.prompt_logprobs.empty(); }
  RequestOutput TakeOutput() { return std::exchange(output_, {}); }

 private:
  struct Sample {
    uint32_t index = 0;
    std::vector<uint32_t> completion;
    StopTracker tracker;
    std::optional<text::StreamDecoder> decoder;
    std::vector<v1::VersionSpan> version_spans;
  };

  ActiveRequest(GenerationRequest request, std::shared_ptr<RequestSink> sink)
      : request_(std::move(request)), sink_(std::move(sink)) {}

  void End(Sample& sample, const StopCause& cause);

  const GenerationRequest request_;
  const std::shared_ptr<RequestSink> sink_;
  std::vector<Sample> samples_;
  uint32_t ended_ = 0;
  std::vector<float> prompt_logprobs_;  // until complete
  bool prompt_complete_ = false;
  RequestOutput output_;
};

}  // namespace rollcall::generator
