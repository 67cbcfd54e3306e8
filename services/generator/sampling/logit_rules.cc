#include "services/generator/sampling/logit_rules.h"

#include <algorithm>
#include <limits>

namespace rollcall::generator {

std::span<const float> LogitProcessor::Apply(std::span<const float> logits, const LogitRules& rules,
                                             const TokenHistory& history) {
  if (!rules.any()) return logits;
  processed_.assign(logits.begin(), logits.end());
  for (const LogitRules::Bias& bias : rules.bias) processed_[bias.token] += bias.bias;
  Penalise(rules, history);
  banned_.clear();
  if (rules.no_repeat_ngram_size > 0) BanRepeats(rules.no_repeat_ngram_size, history);
  BanBadWords(rules.bad_words, history.completion);
  if (banned_.empty()) return processed_;
  constexpr float kBanned = -std::numeric_limits<float>::infinity();
  std::sort(banned_.begin(), banned_.end());
  const auto allowed = [this](size_t token) {
    return processed_[token] != kBanned &&
           !std::binary_search(banned_.begin(), banned_.end(), static_cast<uint32_t>(token));
  };
  size_t token = 0;
  while (token < processed_.size() && !allowed(token)) ++token;
  if (token == processed_.size()) return processed_;
  for (const uint32_t banned : banned_) processed_[banned] = kBanned;
  return processed_;
}

void LogitProcessor::Penalise(const LogitRules& rules, const TokenHistory& history) {
  if (rules.repetition_penalty != 1.0f) {
    seen_.resize(processed_.size(), 0);
    for (size_t i = 0; i < history.size(); ++i) {
      const uint32_t token = history[i];
      if (seen_[token] != 0) continue;
      seen_[token] = 1;
      float& logit = processed_[token];
      logit = logit < 0 ? logit * rules.repetition_penalty : logit / rules.repetition_penalty;
    }
    for (size_t i = 0; i < history.size(); ++i) seen_[history[i]] = 0;
  }
  if (rules.presence_penalty == 0.0f && rules.frequency_penalty == 0.0f) return;
  counts_.resize(processed_.size(), 0);
  for (const uint32_t token : history.completion) ++counts_[token];
  for (const uint32_t token : history.completion) {
    if (counts_[token] == 0) continue;
    processed_[token] -= rules.presence_penalty;
    processed_[token] -= rules.frequency_penalty * static_cast<float>(counts_[token]);
    counts_[token] = 0;
  }
}

void LogitProcessor::BanRepeats(uint32_t n, const TokenHistory& history) {
  const size_t context = n - 1;
  const size_t size = history.size();
  if (size < n) return;
  for (size_t begin = 0; begin + context < size; ++begin) {
    size_t same = 0;
    while (same < context && history[begin + same] == history[size - context + same]) ++same;
    if (same == context) banned_.push_back(history[begin + context]);
  }
}

void LogitProcessor::BanBadWords(const std::vector<std::vector<uint32_t>>& bad_words,
                                 std::span<const uint32_t> completion) {
  for (const std::vector<uint32_t>& word : bad_words) {
    const size_t context = word.size() - 1;
    if (context > completion.size()) continue;
    const auto tail = completion.last(context);
    if (std::equal(tail.begin(), tail.end(), word.begin())) banned_.push_back(word.back());
  }
}

}  // namespace rollcall::generator
