#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace rollcall::generator {

// What changes a model's logits before temperature and truncation; the fields and ranges of
// SamplingParams in generator.proto.
struct LogitRules {
  struct Bias {
    uint32_t token = 0;
    float bias = 0;
  };
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  uint32_t no_repeat_ngram_size = 0;  // 0: off
  std::vector<Bias> bias;             // each token once
  std::vector<std::vector<uint32_t>> bad_words;

  bool any() const {
    return repetition_penalty != 1.0f || presence_penalty != 0.0f || frequency_penalty != 0.0f ||
           no_repeat_ngram_size > 0 || !bias.empty() || !bad_words.empty();
  }
};

// The tokens before the one that is drawn.
struct TokenHistory {
  std::span<const uint32_t> prompt;
  std::span<const uint32_t> completion;

  size_t size() const { return prompt.size() + completion.size(); }
  uint32_t operator[](size_t i) const {
    return i < prompt.size() ? prompt[i] : completion[i - prompt.size()];
  }
};

// Applies the rules in float32, in the order that generator.proto gives: bias, repetition penalty,
// presence and frequency penalties, then the bans (repeated n-grams, bad words), which set logits
// to -inf. Bans that would leave no finite logit are not applied. Equal inputs give equal bits.
// Costs a pass over the vocabulary and one over the history.
//
// Holds scratch memory of the vocabulary's size; not thread-safe.
class LogitProcessor {
 public:
  // logits: [vocab]; tokens of rules and history are below vocab. The result is `logits` itself
  // where there is nothing to do, else valid until the next call.
  std::span<const float> Apply(std::span<const float> logits, const LogitRules& rules,
                               const TokenHistory& history);

 private:
  void Penalise(const LogitRules& rules, const TokenHistory& history);
  // Bans the tokens that complete an n-gram of the history that its last n - 1 tokens begin.
  void BanRepeats(uint32_t n, const TokenHistory& history);
  void BanBadWords(const std::vector<std::vector<uint32_t>>& bad_words,
                   std::span<const uint32_t> completion);

  std::vector<float> processed_;
  std::vector<uint32_t> counts_;  // of every token in the completion; zero between calls
  std::vector<uint8_t> seen_;     // in prompt or completion; zero between calls
  std::vector<uint32_t> banned_;
};

}  // namespace rollcall::generator
