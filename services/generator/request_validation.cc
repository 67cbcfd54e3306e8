#include "services/generator/request_validation.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace rollcall::generator {
namespace {

constexpr size_t kMaxRequestBytes = size_t{1} << 20;
constexpr uint32_t kMaxSamples = 1024;
constexpr float kMaxTemperature = 100.0f;
// Below this a float32 logit divided by the temperature may overflow. Greedy is 0.
constexpr float kMinTemperature = 1e-6f;
constexpr int kMaxStopTokens = 64;
constexpr int kMaxStopStrings = 16;
constexpr size_t kMaxStopStringBytes = 256;
constexpr float kMinRepetitionPenalty = 0.01f;
constexpr float kMaxRepetitionPenalty = 100.0f;
constexpr float kMaxShift = 100.0f;  // of logits, by penalties and bias
constexpr uint32_t kMaxNgram = 1024;
constexpr int kMaxBiases = 1024;
constexpr int kMaxBadWords = 256;
constexpr int kMaxBadWordTokens = 64;
constexpr uint32_t kMaxTopLogprobs = 64;

template <typename... Parts>
absl::Status Invalid(std::string_view field, const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(std::string(field), ": ", parts...));
}

absl::Status CheckTokens(std::string_view field,
                         const google::protobuf::RepeatedField<uint32_t>& ids,
                         uint32_t vocab_size) {
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] >= vocab_size) {
      return Invalid(absl::StrCat(std::string(field), "[", i, "]"), "token ", ids[i],
                     " is not below the vocabulary size ", vocab_size);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckKey(const v1::GenerateRequest& request) {
  if (!request.has_key()) return Invalid("key", "is required");
  const int purpose = request.key().purpose();
  if (purpose == v1::RANDOM_PURPOSE_UNSPECIFIED || !v1::RandomPurpose_IsValid(purpose)) {
    return Invalid("key.purpose", "expected rollout, evaluation or interactive, got ", purpose);
  }
  return absl::OkStatus();
}

absl::Status ParsePrompt(const v1::GenerateRequest& request, const RequestLimits& limits,
                         GenerationRequest* parsed) {
  const auto& ids = request.prompt_token_ids();
  if (ids.empty()) return Invalid("prompt_token_ids", "is empty");
  if (static_cast<uint32_t>(ids.size()) >= limits.context_length) {
    return Invalid("prompt_token_ids", ids.size(), " tokens leave no room in the context of ",
                   limits.context_length);
  }
  ROLLCALL_RETURN_IF_ERROR(CheckTokens("prompt_token_ids", ids, limits.vocab_size));
  parsed->prompt.assign(ids.begin(), ids.end());
  return absl::OkStatus();
}

absl::Status CheckShift(std::string_view field, float shift) {
  if (shift >= -kMaxShift && shift <= kMaxShift) return absl::OkStatus();
  return Invalid(field, "expected ", -kMaxShift, " to ", kMaxShift, ", got ", shift);
}

absl::Status ParsePenalties(const v1::SamplingParams& params, LogitRules* rules) {
  rules->repetition_penalty = params.has_repetition_penalty() ? params.repetition_penalty() : 1.0f;
  rules->presence_penalty = params.presence_penalty();
  rules->frequency_penalty = params.frequency_penalty();
  rules->no_repeat_ngram_size = params.no_repeat_ngram_size();
  if (!(rules->repetition_penalty >= kMinRepetitionPenalty &&
        rules->repetition_penalty <= kMaxRepetitionPenalty)) {
    return Invalid("sampling.repetition_penalty", "expected ", kMinRepetitionPenalty, " to ",
                   kMaxRepetitionPenalty, ", got ", rules->repetition_penalty);
  }
  ROLLCALL_RETURN_IF_ERROR(CheckShift("sampling.presence_penalty", rules->presence_penalty));
  ROLLCALL_RETURN_IF_ERROR(CheckShift("sampling.frequency_penalty", rules->frequency_penalty));
  if (rules->no_repeat_ngram_size > kMaxNgram) {
    return Invalid("sampling.no_repeat_ngram_size", "expected 0 to ", kMaxNgram, ", got ",
                   rules->no_repeat_ngram_size);
  }
  return absl::OkStatus();
}

absl::Status ParseLogitBias(const v1::SamplingParams& params, uint32_t vocab_size,
                            LogitRules* rules) {
  if (params.logit_bias_size() > kMaxBiases) {
    return Invalid("sampling.logit_bias", params.logit_bias_size(), " of at most ", kMaxBiases);
  }
  std::set<uint32_t> seen;
  for (int i = 0; i < params.logit_bias_size(); ++i) {
    const v1::LogitBias& bias = params.logit_bias(i);
    const std::string field = absl::StrCat("sampling.logit_bias[", i, "]");
    if (bias.token_id() >= vocab_size) {
      return Invalid(field + ".token_id", "token ", bias.token_id(),
                     " is not below the vocabulary size ", vocab_size);
    }
    if (!seen.insert(bias.token_id()).second) {
      return Invalid(field + ".token_id", "token ", bias.token_id(), " is named twice");
    }
    ROLLCALL_RETURN_IF_ERROR(CheckShift(field + ".bias", bias.bias()));
    rules->bias.push_back({.token = bias.token_id(), .bias = bias.bias()});
  }
  return absl::OkStatus();
}

absl::Status ParseBadWords(const v1::SamplingParams& params, uint32_t vocab_size,
                           LogitRules* rules) {
  if (params.bad_words_size() > kMaxBadWords) {
    return Invalid("sampling.bad_words", params.bad_words_size(), " of at most ", kMaxBadWords);
  }
  for (int i = 0; i < params.bad_words_size(); ++i) {
    const auto& ids = params.bad_words(i).token_ids();
    const std::string field = absl::StrCat("sampling.bad_words[", i, "].token_ids");
    if (ids.empty() || ids.size() > kMaxBadWordTokens) {
      return Invalid(field, "expected 1 to ", kMaxBadWordTokens, " tokens, got ", ids.size());
    }
    ROLLCALL_RETURN_IF_ERROR(CheckTokens(field, ids, vocab_size));
    rules->bad_words.emplace_back(ids.begin(), ids.end());
  }
  return absl::OkStatus();
}

absl::Status ParseSampling(const v1::SamplingParams& params, const RequestLimits& limits,
                           GenerationRequest* parsed) {
  SamplingOptions& options = parsed->sampling;
  options.temperature = params.has_temperature() ? params.temperature() : 1.0f;
  options.top_k = params.top_k();
  options.top_p = params.has_top_p() ? params.top_p() : 1.0f;
  options.min_p = params.has_min_p() ? params.min_p() : 0.0f;
  // Comparisons that NaN fails.
  if (!(options.temperature >= 0.0f && options.temperature <= kMaxTemperature)) {
    return Invalid("sampling.temperature", "expected 0 to ", kMaxTemperature, ", got ",
                   options.temperature);
  }
  if (options.temperature > 0.0f && options.temperature < kMinTemperature) {
    return Invalid("sampling.temperature", "expected 0 (greedy) or at least ", kMinTemperature,
                   ", got ", options.temperature);
  }
  if (!(options.top_p > 0.0f && options.top_p <= 1.0f)) {
    return Invalid("sampling.top_p", "expected above 0, at most 1, got ", options.top_p);
  }
  if (!(options.min_p >= 0.0f && options.min_p <= 1.0f)) {
    return Invalid("sampling.min_p", "expected 0 to 1, got ", options.min_p);
  }
  if (params.max_tokens() == 0 || params.max_tokens() > limits.context_length) {
    return Invalid("sampling.max_tokens", "expected 1 to ", limits.context_length, ", got ",
                   params.max_tokens());
  }
  if (params.min_tokens() > params.max_tokens()) {
    return Invalid("sampling.min_tokens", params.min_tokens(), " is above max_tokens ",
                   params.max_tokens());
  }
  ROLLCALL_RETURN_IF_ERROR(ParsePenalties(params, &options.rules));
  ROLLCALL_RETURN_IF_ERROR(ParseLogitBias(params, limits.vocab_size, &options.rules));
  ROLLCALL_RETURN_IF_ERROR(ParseBadWords(params, limits.vocab_size, &options.rules));
  if (params.top_logprobs() > kMaxTopLogprobs) {
    return Invalid("sampling.top_logprobs", "expected 0 to ", kMaxTopLogprobs, ", got ",
                   params.top_logprobs());
  }
  parsed->top_logprobs = params.top_logprobs();
  parsed->prompt_logprobs = params.prompt_logprobs();
  parsed->stop.max_tokens = params.max_tokens();
  parsed->stop.min_tokens = params.min_tokens();
  parsed->stop.max_completion =
      limits.context_length - static_cast<uint32_t>(parsed->prompt.size());
  return absl::OkStatus();
}

absl::Status ParseStop(const v1::StopConditions& stop, const RequestLimits& limits,
                       GenerationRequest* parsed) {
  if (stop.token_ids_size() > kMaxStopTokens) {
    return Invalid("stop.token_ids", stop.token_ids_size(), " of at most ", kMaxStopTokens);
  }
  ROLLCALL_RETURN_IF_ERROR(CheckTokens("stop.token_ids", stop.token_ids(), limits.vocab_size));
  std::vector<uint32_t>& ids = parsed->stop.token_ids;
  ids.assign(stop.token_ids().begin(), stop.token_ids().end());
  if (!stop.ignore_eos()) {
    ids.insert(ids.end(), limits.eos_token_ids.begin(), limits.eos_token_ids.end());
  }
  std::sort(ids.begin(), ids.end());
  if (stop.strings_size() > kMaxStopStrings) {
    return Invalid("stop.strings", stop.strings_size(), " of at most ", kMaxStopStrings);
  }
  for (int i = 0; i < stop.strings_size(); ++i) {
    const std::string& text = stop.strings(i);
    if (text.empty() || text.size() > kMaxStopStringBytes) {
      return Invalid(absl::StrCat("stop.strings[", i, "]"), "expected 1 to ", kMaxStopStringBytes,
                     " bytes, got ", text.size());
    }
    parsed->stop.strings.push_back(text);
  }
  if (!limits.has_tokenizer && (parsed->return_text || !parsed->stop.strings.empty())) {
    return absl::FailedPreconditionError(
        absl::StrCat(parsed->return_text ? "return_text" : "stop.strings",
                     ": this generator's model has no tokenizer"));
  }
  return absl::OkStatus();
}

absl::Status ParseSamples(const v1::GenerateRequest& request, const RequestLimits& limits,
                          GenerationRequest* parsed) {
  const uint32_t count = request.num_samples();
  if (count == 0 || count > kMaxSamples) {
    return Invalid("num_samples", "expected 1 to ", kMaxSamples, ", got ", count);
  }
  if (request.samples().empty()) {
    for (uint32_t index = 0; index < count; ++index) parsed->samples.push_back({index, {}});
    return absl::OkStatus();
  }
  const uint32_t longest = std::min(parsed->stop.max_tokens, parsed->stop.max_completion);
  std::vector<bool> seen(count, false);
  for (int i = 0; i < request.samples_size(); ++i) {
    const v1::SampleRequest& sample = request.samples(i);
    const std::string field = absl::StrCat("samples[", i, "]");
    if (sample.index() >= count) {
      return Invalid(field + ".index", sample.index(), " is not below num_samples ", count);
    }
    if (seen[sample.index()]) return Invalid(field + ".index", sample.index(), " is named twice");
    seen[sample.index()] = true;
    const auto& prefix = sample.prefix_token_ids();
    if (static_cast<uint32_t>(prefix.size()) >= longest) {
      return Invalid(field + ".prefix_token_ids", prefix.size(),
                     " tokens leave nothing to make of at most ", longest);
    }
    ROLLCALL_RETURN_IF_ERROR(CheckTokens(field + ".prefix_token_ids", prefix, limits.vocab_size));
    parsed->samples.push_back({sample.index(), {prefix.begin(), prefix.end()}});
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GenerationRequest> ParseGenerateRequest(const v1::GenerateRequest& request,
                                                       const RequestLimits& limits) {
  if (request.ByteSizeLong() > kMaxRequestBytes) {
    return Invalid("request", request.ByteSizeLong(), " bytes, at most ", kMaxRequestBytes,
                   " are taken");
  }
  GenerationRequest parsed;
  ROLLCALL_RETURN_IF_ERROR(CheckKey(request));
  parsed.key = request.key();
  parsed.return_text = request.return_text();
  if (request.has_min_version()) parsed.min_version = request.min_version();
  ROLLCALL_RETURN_IF_ERROR(ParsePrompt(request, limits, &parsed));
  ROLLCALL_RETURN_IF_ERROR(ParseSampling(request.sampling(), limits, &parsed));
  ROLLCALL_RETURN_IF_ERROR(ParseStop(request.stop(), limits, &parsed));
  ROLLCALL_RETURN_IF_ERROR(ParseSamples(request, limits, &parsed));
  return parsed;
}

}  // namespace rollcall::generator
