#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "rollcall/v1/generator.pb.h"
#include "rollcall/v1/identity.pb.h"
#include "services/generator/sampling/stop_conditions.h"
#include "services/generator/sampling/token_sampler.h"

namespace rollcall::generator {

// A group of completions to make: a GenerateRequest that was checked, with its defaults filled in.
struct GenerationRequest {
  struct Sample {
    uint32_t index = 0;
    std::vector<uint32_t> prefix;
  };
  v1::RandomKey key;
  std::vector<uint32_t> prompt;
  std::vector<Sample> samples;
  SamplingOptions sampling;
  StopConditions stop;
  std::optional<v1::PolicyVersion> min_version;
  bool return_text = false;
  uint32_t top_logprobs = 0;
  bool prompt_logprobs = false;
};

// One drawn token, as it goes to the caller.
struct TokenOutput {
  uint32_t index = 0;   // of the sample
  uint32_t offset = 0;  // within the completion
  uint32_t token = 0;
  float logprob = 0;           // nats
  float sampling_logprob = 0;  // nats; meaningful where sampling.reshapes()
  float kept_log_mass = 0;     // nats; meaningful where sampling.keeps_mass()
  uint64_t policy_step = 0;
  bool mixed_kv = false;
  std::string text;                    // with return_text
  v1::TokenAlternatives alternatives;  // with top_logprobs
};

// What one engine step made for one request. The prompt's log-probs come before all tokens, the
// tokens of a sample before its end.
struct RequestOutput {
  // Of prompt tokens 1, 2, …; in the one output that completes them, else empty.
  std::vector<float> prompt_logprobs;
  uint64_t prompt_policy_step = 0;
  std::vector<TokenOutput> tokens;
  std::vector<v1::SampleEnd> ends;
};

// Where a request's results go. Called by the engine thread, or by the thread that refuses the
// request, in the order OnAdmitted once, OnOutput any number of times, OnDone once; only OnDone
// where it is refused. Implementations must not block nor call back into the engine.
class RequestSink {
 public:
  virtual ~RequestSink() = default;
  virtual void OnAdmitted(const v1::PolicyVersion& version) = 0;
  virtual void OnOutput(RequestOutput output) = 0;
  virtual void OnDone(absl::Status status) = 0;
};

}  // namespace rollcall::generator
