#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/chat_template.h"
#include "common/text/stream_decoder.h"

struct RollcallTokenizer;

namespace rollcall::text {

struct Encoding {
  // Bytes [begin, end) of the text; an id of a special token that was added has [0, 0).
  struct Offset {
    size_t begin;
    size_t end;
    bool operator==(const Offset&) const = default;
  };

  std::vector<uint32_t> ids;
  std::vector<Offset> offsets;
};

// A Hugging Face fast tokenizer with the special ids and the chat template of its folder.
// Immutable; any number of threads may use one.
class Tokenizer {
 public:
  // Reads what ReadTokenizerFolder (tokenizer_folder.h) lists; its statuses, and INVALID_ARGUMENT
  // where tokenizer.json is not one.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> Load(const std::string& folder);
  // From the bytes of a tokenizer.json alone: no bos, no eos, no chat template.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> FromJson(std::string_view tokenizer_json);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // `text`: UTF-8, else INVALID_ARGUMENT. With special tokens: what the tokenizer.json adds,
  // usually bos in front. Special tokens written in `text` become their ids either way.
  absl::StatusOr<std::vector<uint32_t>> Encode(std::string_view text,
                                               bool add_special_tokens) const;
  absl::StatusOr<Encoding> EncodeWithOffsets(std::string_view text, bool add_special_tokens) const;

  // Always valid UTF-8: U+FFFD stands for bytes that are no character. Ids outside the vocabulary
  // (models pad theirs) decode to nothing, as in transformers.
  absl::StatusOr<std::string> Decode(std::span<const uint32_t> ids, bool skip_special) const;

  StreamDecoder NewStream(bool skip_special) const;

  // Number of ids, added tokens included. A model's vocabulary may be larger (padding).
  uint32_t vocab_size() const;
  std::optional<uint32_t> TokenToId(std::string_view token) const;
  std::optional<std::string> IdToToken(uint32_t id) const;

  // The tokenizer's own, else the model's (generation_config.json, config.json).
  std::optional<uint32_t> bos_id() const { return bos_id_; }
  std::optional<uint32_t> eos_id() const;
  // Every id that ends a completion: eos_id() first, then those of generation_config.json (else of
  // config.json), each once.
  const std::vector<uint32_t>& eos_ids() const { return eos_ids_; }

  // The text of a chat, by the template that options.template_name names, else `tool_use` for calls
  // with tools where there is one, else `default`. FAILED_PRECONDITION where the folder has no chat
  // template, NOT_FOUND where it has none of that name; the statuses of ChatTemplate::Render.
  absl::StatusOr<std::string> ApplyChatTemplate(std::string_view messages_json,
                                                const ChatTemplateOptions& options) const;
  // As above, with the places of what the assistant said.
  absl::StatusOr<RenderedChat> RenderChat(std::string_view messages_json,
                                          const ChatTemplateOptions& options) const;
  bool has_chat_template() const { return !chat_templates_.empty(); }

 private:
  explicit Tokenizer(RollcallTokenizer* tokenizer) : tokenizer_(tokenizer) {}

  // For messages: "default, tool_use".
  std::string TemplateNames() const;

  RollcallTokenizer* const tokenizer_;
  // Constant after Load.
  std::optional<uint32_t> bos_id_;
  std::vector<uint32_t> eos_ids_;
  // A template that does not compile is an error only of whoever uses it.
  std::map<std::string, absl::StatusOr<std::shared_ptr<const ChatTemplate>>> chat_templates_;
};

}  // namespace rollcall::text
