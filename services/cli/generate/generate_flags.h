#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/tokenizer.h"
#include "rollcall/v1/generator.pb.h"

namespace rollcall::cli {

// What `rollcall generate` was asked for.
struct GenerateFlags {
  std::string model;
  std::string adapter;
  std::string prompt;
  std::string system;
  std::string connect;
  std::vector<std::string> sets;
  bool chat = false;
  bool json = false;

  bool greedy = false;
  uint32_t samples = 1;
  uint32_t max_tokens = 256;
  uint32_t min_tokens = 0;
  uint32_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
  float temperature = 1;
  uint64_t seed = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  uint32_t no_repeat_ngram = 0;
  std::vector<std::string> logit_bias;
  std::vector<std::string> bad_words;
  std::vector<std::string> stop;
  std::vector<uint32_t> stop_tokens;
  bool ignore_eos = false;
  uint32_t top_logprobs = 0;
};

// Declares them as options of `command`; `flags` must outlive it.
void AddGenerateOptions(CLI::App& command, GenerateFlags& flags);

// The request for completions of `tokens`. `turn` tells calls of one process apart: each draws its
// own tokens. INVALID_ARGUMENT names the flag that cannot be understood.
absl::StatusOr<v1::GenerateRequest> MakeGenerateRequest(const text::Tokenizer& tokenizer,
                                                        const std::vector<uint32_t>& tokens,
                                                        const GenerateFlags& flags, uint64_t turn);

}  // namespace rollcall::cli
