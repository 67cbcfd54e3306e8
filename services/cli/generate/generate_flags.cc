#include "services/cli/generate/generate_flags.h"

#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace rollcall::cli {
namespace {

// A token by its id or by its text: "7", "</s>", or a text that is a single token.
absl::StatusOr<uint32_t> ParseToken(const text::Tokenizer& tokenizer, const std::string& name) {
  uint32_t id = 0;
  if (absl::SimpleAtoi(name, &id)) return id;
  if (const std::optional<uint32_t> known = tokenizer.TokenToId(name)) return *known;
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<uint32_t> ids,
                            tokenizer.Encode(name, /*add_special_tokens=*/false));
  if (ids.size() == 1) return ids[0];
  return absl::InvalidArgumentError(
      absl::StrCat("--logit-bias: expected one token or its id, got \"", name, "\", which is ",
                   ids.size(), " tokens"));
}

absl::Status AddLogitBias(const text::Tokenizer& tokenizer, const std::string& flag,
                          v1::SamplingParams& sampling) {
  // The last one: the token itself may be "=".
  const size_t equals = flag.rfind('=');
  float bias = 0;
  if (equals == std::string::npos || equals == 0 ||
      !absl::SimpleAtof(flag.substr(equals + 1), &bias)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--logit-bias: expected token=number, got \"", flag, "\""));
  }
  v1::LogitBias& added = *sampling.add_logit_bias();
  ROLLCALL_ASSIGN_OR_RETURN(const uint32_t id, ParseToken(tokenizer, flag.substr(0, equals)));
  added.set_token_id(id);
  added.set_bias(bias);
  return absl::OkStatus();
}

// A word is tokenised otherwise at the start of a text than after a space: neither is drawn.
absl::Status AddBadWord(const text::Tokenizer& tokenizer, const std::string& word,
                        v1::SamplingParams& sampling) {
  std::vector<uint32_t> first;
  for (const std::string& text : {word, " " + word}) {
    ROLLCALL_ASSIGN_OR_RETURN(const std::vector<uint32_t> ids,
                              tokenizer.Encode(text, /*add_special_tokens=*/false));
    if (ids.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--bad-word: expected a text of at least one token, got \"", word, "\""));
    }
    if (ids == first) continue;
    first = ids;
    sampling.add_bad_words()->mutable_token_ids()->Add(ids.begin(), ids.end());
  }
  return absl::OkStatus();
}

void AddSamplingOptions(CLI::App& command, GenerateFlags& flags) {
  command.add_option("--temperature", flags.temperature, "Softmax temperature")
      ->capture_default_str();
  command.add_flag("--greedy", flags.greedy, "Always the likeliest token");
  command.add_option("--top-k", flags.top_k, "Keep the k likeliest tokens; 0: all")
      ->capture_default_str();
  command.add_option("--top-p", flags.top_p, "Keep the smallest set with this probability")
      ->capture_default_str();
  command
      .add_option("--min-p", flags.min_p,
                  "Keep tokens at least this likely, relative to the likeliest")
      ->capture_default_str();
  command
      .add_option("--repetition-penalty", flags.repetition_penalty,
                  "Divides positive logits of tokens that occurred, multiplies negative ones; 1: "
                  "nothing")
      ->capture_default_str();
  command
      .add_option("--presence-penalty", flags.presence_penalty,
                  "Subtracted from the logits of tokens that the completion holds")
      ->capture_default_str();
  command
      .add_option("--frequency-penalty", flags.frequency_penalty,
                  "Subtracted for every time that the completion holds the token")
      ->capture_default_str();
  command
      .add_option("--no-repeat-ngram", flags.no_repeat_ngram,
                  "No run of this many tokens comes twice; 0: it may")
      ->capture_default_str();
  command
      .add_option("--logit-bias", flags.logit_bias,
                  "token=number added to its logit; a token by id or text; repeatable")
      ->allow_extra_args(false);
  command.add_option("--bad-word", flags.bad_words, "Text that is never written; repeatable")
      ->allow_extra_args(false);
  command.add_option("--seed", flags.seed, "Same seed, same tokens")->capture_default_str();
}

void AddLengthOptions(CLI::App& command, GenerateFlags& flags) {
  command.add_option("-n,--samples", flags.samples, "Completions")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command.add_option("--max-tokens", flags.max_tokens, "Most new tokens")->capture_default_str();
  command.add_option("--min-tokens", flags.min_tokens, "Fewest new tokens before an end")
      ->capture_default_str();
  command.add_option("--stop", flags.stop, "Text that ends a completion; repeatable")
      ->allow_extra_args(false);
  command.add_option("--stop-token", flags.stop_tokens, "Token id that ends one; repeatable")
      ->allow_extra_args(false);
  command.add_flag("--ignore-eos", flags.ignore_eos,
                   "Go on after the model's end-of-sequence tokens");
}

}  // namespace

void AddGenerateOptions(CLI::App& command, GenerateFlags& flags) {
  command
      .add_option("model", flags.model, "Hugging Face folder; with --connect its tokenizer is used")
      ->required();
  command.add_option("prompt", flags.prompt,
                     "The prompt; standard input if absent. On a terminal: a chat, line by line");
  command.add_option("--connect", flags.connect,
                     "Use a running generator (host:port or unix:/path), start none");
  command.add_option("--adapter", flags.adapter,
                     "PEFT folder of a low-rank adapter of the model (model.lora.path)");
  command.add_flag("--chat", flags.chat,
                   "The prompt is a user's message: apply the model's chat template");
  command.add_option("--system", flags.system, "In a chat: the system message");
  AddLengthOptions(command, flags);
  AddSamplingOptions(command, flags);
  command
      .add_option("--set", flags.sets,
                  "Configuration of the generator, as in generator.threads=1; repeatable")
      ->allow_extra_args(false);
  command.add_flag("--json", flags.json, "One JSON object a completion");
  command
      .add_option("--top-logprobs", flags.top_logprobs,
                  "With --json: the likeliest tokens at each position")
      ->check(CLI::Range(0, 64))
      ->capture_default_str();
}

absl::StatusOr<v1::GenerateRequest> MakeGenerateRequest(const text::Tokenizer& tokenizer,
                                                        const std::vector<uint32_t>& tokens,
                                                        const GenerateFlags& flags, uint64_t turn) {
  v1::GenerateRequest request;
  request.mutable_key()->set_run_seed(flags.seed);
  request.mutable_key()->set_purpose(v1::RANDOM_PURPOSE_INTERACTIVE);
  request.mutable_key()->set_group_id(turn);
  request.mutable_prompt_token_ids()->Add(tokens.begin(), tokens.end());
  request.set_num_samples(flags.samples);
  v1::SamplingParams& sampling = *request.mutable_sampling();
  sampling.set_temperature(flags.greedy ? 0 : flags.temperature);
  sampling.set_top_k(flags.top_k);
  sampling.set_top_p(flags.top_p);
  sampling.set_min_p(flags.min_p);
  sampling.set_max_tokens(flags.max_tokens);
  sampling.set_min_tokens(flags.min_tokens);
  sampling.set_repetition_penalty(flags.repetition_penalty);
  sampling.set_presence_penalty(flags.presence_penalty);
  sampling.set_frequency_penalty(flags.frequency_penalty);
  sampling.set_no_repeat_ngram_size(flags.no_repeat_ngram);
  for (const std::string& bias : flags.logit_bias) {
    ROLLCALL_RETURN_IF_ERROR(AddLogitBias(tokenizer, bias, sampling));
  }
  for (const std::string& word : flags.bad_words) {
    ROLLCALL_RETURN_IF_ERROR(AddBadWord(tokenizer, word, sampling));
  }
  sampling.set_top_logprobs(flags.top_logprobs);
  for (const std::string& stop : flags.stop) request.mutable_stop()->add_strings(stop);
  for (const uint32_t id : flags.stop_tokens) request.mutable_stop()->add_token_ids(id);
  request.mutable_stop()->set_ignore_eos(flags.ignore_eos);
  request.set_return_text(true);
  return request;
}

}  // namespace rollcall::cli
