#include "common/text/tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/text/crate/rollcall_text.h"
#include "common/text/crate_buffer.h"
#include "common/text/tokenizer_folder.h"

namespace rollcall::text {
namespace {

absl::StatusOr<RollcallTokenizer*> LoadFromJson(std::string_view json) {
  RollcallTokenizer* tokenizer = nullptr;
  CrateBuffer error;
  const int32_t code =
      rollcall_tokenizer_load(CrateBytes(json), json.size(), &tokenizer, error.out());
  if (absl::Status status = CrateStatus(code, error); !status.ok()) {
    return Annotate(std::move(status), "tokenizer.json");
  }
  return tokenizer;
}

// The id of a special token that the folder names. INVALID_ARGUMENT where the vocabulary lacks it.
absl::StatusOr<std::optional<uint32_t>> SpecialId(const Tokenizer& tokenizer,
                                                  const TokenizerFolder& parts, const char* name) {
  const auto token = parts.special_tokens.find(name);
  if (token == parts.special_tokens.end()) return std::optional<uint32_t>();
  const std::optional<uint32_t> id = tokenizer.TokenToId(token->second);
  if (!id) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer_config.json: ", name, ": '",
                                                   token->second.substr(0, 60),
                                                   "' is not in the vocabulary of tokenizer.json"));
  }
  return id;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::Load(const std::string& folder) {
  ROLLCALL_ASSIGN_OR_RETURN(TokenizerFolder parts, ReadTokenizerFolder(folder));
  absl::StatusOr<RollcallTokenizer*> handle = LoadFromJson(parts.tokenizer_json);
  if (!handle.ok()) return Annotate(handle.status(), folder);
  std::shared_ptr<Tokenizer> tokenizer(new Tokenizer(*handle));

  absl::StatusOr<std::optional<uint32_t>> bos = SpecialId(*tokenizer, parts, "bos_token");
  if (!bos.ok()) return Annotate(bos.status(), folder);
  tokenizer->bos_id_ = parts.names_bos ? *bos : parts.model_bos_id;

  absl::StatusOr<std::optional<uint32_t>> eos = SpecialId(*tokenizer, parts, "eos_token");
  if (!eos.ok()) return Annotate(eos.status(), folder);
  if (*eos) tokenizer->eos_ids_.push_back(**eos);
  for (const uint32_t id : parts.model_eos_ids) {
    if (std::ranges::find(tokenizer->eos_ids_, id) == tokenizer->eos_ids_.end()) {
      tokenizer->eos_ids_.push_back(id);
    }
  }

  for (const auto& [name, source] : parts.chat_templates) {
    tokenizer->chat_templates_.emplace(
        name, ChatTemplate::Compile(source.text, parts.special_tokens, source.place));
  }
  return tokenizer;
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::FromJson(
    std::string_view tokenizer_json) {
  ROLLCALL_ASSIGN_OR_RETURN(RollcallTokenizer * handle, LoadFromJson(tokenizer_json));
  return std::shared_ptr<const Tokenizer>(new Tokenizer(handle));
}

Tokenizer::~Tokenizer() { rollcall_tokenizer_free(tokenizer_); }

absl::StatusOr<std::vector<uint32_t>> Tokenizer::Encode(std::string_view text,
                                                        bool add_special_tokens) const {
  CrateBuffer ids, error;
  ROLLCALL_RETURN_IF_ERROR(CrateStatus(
      rollcall_tokenizer_encode(tokenizer_, CrateBytes(text), text.size(), add_special_tokens,
                                ids.out(), /*out_offsets=*/nullptr, error.out()),
      error));
  return ids.ToVector<uint32_t>();
}

absl::StatusOr<Encoding> Tokenizer::EncodeWithOffsets(std::string_view text,
                                                      bool add_special_tokens) const {
  CrateBuffer ids, offsets, error;
  ROLLCALL_RETURN_IF_ERROR(CrateStatus(
      rollcall_tokenizer_encode(tokenizer_, CrateBytes(text), text.size(), add_special_tokens,
                                ids.out(), offsets.out(), error.out()),
      error));
  Encoding encoding{ids.ToVector<uint32_t>(), {}};
  const std::vector<uint64_t> numbers = offsets.ToVector<uint64_t>();
  for (size_t i = 0; i + 1 < numbers.size(); i += 2) {
    encoding.offsets.push_back({numbers[i], numbers[i + 1]});
  }
  return encoding;
}

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const uint32_t> ids,
                                              bool skip_special) const {
  CrateBuffer text, error;
  ROLLCALL_RETURN_IF_ERROR(
      CrateStatus(rollcall_tokenizer_decode(tokenizer_, ids.data(), ids.size(), skip_special,
                                            text.out(), error.out()),
                  error));
  return text.ToString();
}

StreamDecoder Tokenizer::NewStream(bool skip_special) const {
  return StreamDecoder(rollcall_stream_new(tokenizer_, skip_special));
}

uint32_t Tokenizer::vocab_size() const { return rollcall_tokenizer_vocab_size(tokenizer_); }

std::optional<uint32_t> Tokenizer::TokenToId(std::string_view token) const {
  uint32_t id = 0;
  if (!rollcall_tokenizer_token_to_id(tokenizer_, CrateBytes(token), token.size(), &id)) {
    return std::nullopt;
  }
  return id;
}

std::optional<std::string> Tokenizer::IdToToken(uint32_t id) const {
  CrateBuffer token;
  if (!rollcall_tokenizer_id_to_token(tokenizer_, id, token.out())) return std::nullopt;
  return token.ToString();
}

std::optional<uint32_t> Tokenizer::eos_id() const {
  return eos_ids_.empty() ? std::nullopt : std::optional<uint32_t>(eos_ids_.front());
}

std::string Tokenizer::TemplateNames() const {
  std::string names;
  for (const auto& [name, chat_template] : chat_templates_) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", name);
  }
  return names.empty() ? "none" : names;
}

absl::StatusOr<RenderedChat> Tokenizer::RenderChat(std::string_view messages_json,
                                                   const ChatTemplateOptions& options) const {
  auto found = chat_templates_.end();
  if (!options.template_name.empty()) {
    found = chat_templates_.find(options.template_name);
    if (found == chat_templates_.end()) {
      return absl::NotFoundError(absl::StrCat("the tokenizer's folder has no chat template \"",
                                              options.template_name, "\", it has ",
                                              TemplateNames()));
    }
  }
  if (found == chat_templates_.end() && !options.tools_json.empty()) {
    found = chat_templates_.find("tool_use");
  }
  if (found == chat_templates_.end()) found = chat_templates_.find("default");
  if (found == chat_templates_.end()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the tokenizer's folder has no default chat template, it has ",
                     TemplateNames(), "; where it has one, chat_template.jinja holds it"));
  }
  if (!found->second.ok()) return found->second.status();
  return (*found->second)->Render(messages_json, options);
}

absl::StatusOr<std::string> Tokenizer::ApplyChatTemplate(std::string_view messages_json,
                                                         const ChatTemplateOptions& options) const {
  ROLLCALL_ASSIGN_OR_RETURN(RenderedChat chat, RenderChat(messages_json, options));
  return std::move(chat.text);
}

void StreamDecoder::Free::operator()(RollcallStream* stream) const { rollcall_stream_free(stream); }

absl::StatusOr<std::string> StreamDecoder::Step(uint32_t id) {
  CrateBuffer text, error;
  ROLLCALL_RETURN_IF_ERROR(
      CrateStatus(rollcall_stream_step(stream_.get(), id, text.out(), error.out()), error));
  return text.ToString();
}

absl::StatusOr<std::string> StreamDecoder::Flush() {
  CrateBuffer text, error;
  ROLLCALL_RETURN_IF_ERROR(
      CrateStatus(rollcall_stream_flush(stream_.get(), text.out(), error.out()), error));
  return text.ToString();
}

}  // namespace rollcall::text
