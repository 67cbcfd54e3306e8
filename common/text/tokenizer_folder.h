#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace rollcall::text {

// What a Hugging Face folder says about its tokenizer, read from tokenizer.json,
// tokenizer_config.json, special_tokens_map.json, generation_config.json, config.json,
// chat_template.jinja and additional_chat_templates/*.jinja. Only the first must exist.
struct TokenizerFolder {
  std::string tokenizer_json;
  // Special tokens by the name that templates use (`bos_token`, …, and the model's own ones of
  // extra_special_tokens); those set to null are absent.
  std::map<std::string, std::string> special_tokens;
  // True where the tokenizer's files speak of a bos_token at all, if only as null. Then the model's
  // files are not asked.
  bool names_bos = false;
  // From generation_config.json, else config.json.
  std::optional<uint32_t> model_bos_id;
  std::vector<uint32_t> model_eos_ids;
  struct Source {
    std::string text;
    // The file, for messages.
    std::string place;
  };
  // By name; `default` is the usual one, `tool_use` serves calls with tools.
  std::map<std::string, Source> chat_templates;
};

// NOT_FOUND where there is no tokenizer.json (the message says what to do when there is a
// tokenizer.model instead), INVALID_ARGUMENT naming the file and field that cannot be understood.
absl::StatusOr<TokenizerFolder> ReadTokenizerFolder(const std::string& folder);

}  // namespace rollcall::text
