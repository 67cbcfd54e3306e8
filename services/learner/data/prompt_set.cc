#include "services/learner/data/prompt_set.h"

#include <span>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "services/learner/data/chat_encoding.h"
#include "services/learner/data/jsonl_file.h"
#include "services/learner/data/row_columns.h"
#include "services/learner/data/struct_columns.h"

namespace rollcall::learner {
namespace {

absl::StatusOr<std::string> ChatPrompt(const RowPlace& place, const std::string& column,
                                       const nlohmann::json& messages,
                                       const text::Tokenizer& tokenizer) {
  if (!CheckMessages(messages).ok()) {
    return place.WrongColumn(column, "a string or a list of messages with roles", messages);
  }
  if (messages.back()["role"] == "assistant") {
    return place.WrongColumn(column, "a chat that ends before the assistant's answer", messages);
  }
  auto text = RenderPrompt(tokenizer, messages);
  if (text.ok()) return text;
  return Annotate(text.status(), absl::StrCat(place.Name(), ": column \"", column, "\""));
}

// For verifiers. A content of several parts, or with more than its text, stands as JSON.
void AddMessages(const nlohmann::json& messages, v1::PromptRow* prompt) {
  for (const nlohmann::json& message : messages) {
    v1::ChatMessage* out = prompt->add_messages();
    out->set_role(message["role"].get<std::string>());
    const auto content = message.find("content");
    if (content == message.end() || content->is_null()) continue;
    out->set_content(content->is_string() ? content->get<std::string>() : content->dump());
  }
}

class PromptReader {
 public:
  using Example = v1::PromptRow;

  PromptReader(const v1::DataSection& data, const text::Tokenizer& tokenizer)
      : data_(data), tokenizer_(tokenizer) {}

  absl::StatusOr<v1::PromptRow> Read(const RowPlace& place, const nlohmann::json& row) const {
    const FoundColumn found = FindPrompt(data_, row);
    if (found.value == nullptr) return NoPrompt(data_, place, row);
    const nlohmann::json& value = *found.value;
    v1::PromptRow prompt;
    bool add_special_tokens = false;  // a chat template writes them itself
    if (value.is_string()) {
      prompt.set_text(value.get<std::string>());
      add_special_tokens = data_.add_special_tokens();
    } else {
      ROLLCALL_ASSIGN_OR_RETURN(*prompt.mutable_text(),
                                ChatPrompt(place, found.name, value, tokenizer_));
      AddMessages(value, &prompt);
    }
    ROLLCALL_ASSIGN_OR_RETURN(const std::vector<uint32_t> ids,
                              tokenizer_.Encode(prompt.text(), add_special_tokens));
    if (ids.empty()) return place.WrongColumn(found.name, "a prompt of at least one token", value);
    prompt.mutable_token_ids()->Assign(ids.begin(), ids.end());
    prompt.set_row(place.row);
    ROLLCALL_ASSIGN_OR_RETURN(*prompt.mutable_columns(), ColumnsOf(place, row, {found.name}));
    ROLLCALL_RETURN_IF_ERROR(AddAnswer(place, row, prompt.mutable_columns()));
    return prompt;
  }

  absl::Status CheckLength(const RowPlace& place, const v1::PromptRow& prompt) const {
    const auto length = static_cast<uint32_t>(prompt.token_ids_size());
    if (length <= data_.max_prompt_tokens()) return absl::OkStatus();
    return place.Error(absl::StrCat("the prompt has ", length,
                                    " tokens, data.max_prompt_tokens is ",
                                    data_.max_prompt_tokens()));
  }

  // Cuts a prompt that is too long to its last tokens.
  absl::StatusOr<bool> Truncate(v1::PromptRow& prompt) const {
    auto& ids = *prompt.mutable_token_ids();
    ids.erase(ids.begin(), ids.end() - data_.max_prompt_tokens());
    const std::span<const uint32_t> kept(ids.data(), static_cast<size_t>(ids.size()));
    ROLLCALL_ASSIGN_OR_RETURN(*prompt.mutable_text(),
                              tokenizer_.Decode(kept, /*skip_special=*/false));
    return true;
  }

  void SetSource(v1::PromptRow& prompt, uint32_t source) const { prompt.set_source(source); }

 private:
  absl::Status AddAnswer(const RowPlace& place, const nlohmann::json& row,
                         google::protobuf::Struct* columns) const {
    const FoundColumn found = FindAnswer(data_, row);
    if (found.value == nullptr) {
      if (data_.answer_column().empty()) return absl::OkStatus();
      return place.Error(absl::StrCat("expected a column \"", data_.answer_column(),
                                      "\", as data.answer_column says"));
    }
    if (found.name == kAnswerColumn) return absl::OkStatus();
    ROLLCALL_ASSIGN_OR_RETURN(const google::protobuf::Struct answer,
                              ColumnsOf(place, {{kAnswerColumn, *found.value}}, {}));
    for (const auto& [name, value] : answer.fields()) (*columns->mutable_fields())[name] = value;
    return absl::OkStatus();
  }

  const v1::DataSection& data_;
  const text::Tokenizer& tokenizer_;
};

}  // namespace

absl::StatusOr<PromptSet> LoadPrompts(
    const v1::DataSection& data, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
    const text::Tokenizer& tokenizer) {
  return LoadExamples(data, sources, PromptReader(data, tokenizer));
}

absl::StatusOr<std::shared_ptr<const Examples<v1::PromptRow>>> OpenPrompts(
    const v1::DataSection& data, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
    const text::Tokenizer& tokenizer, uint64_t seed, uint64_t memory_bytes) {
  return OpenExamples(data, sources, PromptReader(data, tokenizer), seed, memory_bytes);
}

}  // namespace rollcall::learner
