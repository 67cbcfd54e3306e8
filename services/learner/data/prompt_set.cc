#include "services/learner/data/prompt_set.h"

#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "services/learner/data/chat_encoding.h"
#include "services/learner/data/jsonl_file.h"
#include "services/learner/data/row_policy.h"
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
  return Annotate(text.status(),
                  absl::StrCat(place.path, ":", place.line, ": column \"", column, "\""));
}

class PromptReader {
 public:
  PromptReader(const v1::DataSection& data, const text::Tokenizer& tokenizer)
      : data_(data), tokenizer_(tokenizer) {}

  absl::StatusOr<v1::PromptRow> Read(const RowPlace& place, const nlohmann::json& row) const {
    const std::string& column =
        row.contains(data_.prompt_column()) ? data_.prompt_column() : data_.messages_column();
    if (!row.contains(column)) {
      return place.Error(absl::StrCat("expected a column \"", data_.prompt_column(), "\" or \"",
                                      data_.messages_column(), "\""));
    }
    const nlohmann::json& value = row[column];
    v1::PromptRow prompt;
    bool add_special_tokens = false;  // a chat template writes them itself
    if (value.is_string()) {
      prompt.set_text(value.get<std::string>());
      add_special_tokens = data_.add_special_tokens();
    } else {
      ROLLCALL_ASSIGN_OR_RETURN(*prompt.mutable_text(),
                                ChatPrompt(place, column, value, tokenizer_));
    }
    ROLLCALL_ASSIGN_OR_RETURN(const std::vector<uint32_t> ids,
                              tokenizer_.Encode(prompt.text(), add_special_tokens));
    if (ids.empty()) return place.WrongColumn(column, "a prompt of at least one token", value);
    prompt.mutable_token_ids()->Assign(ids.begin(), ids.end());
    prompt.set_row(place.row);
    ROLLCALL_ASSIGN_OR_RETURN(*prompt.mutable_columns(), ColumnsOf(place, row, {column}));
    return prompt;
  }

  absl::Status CheckLength(const RowPlace& place, const v1::PromptRow& prompt) const {
    const auto length = static_cast<uint32_t>(prompt.token_ids_size());
    if (length <= data_.max_prompt_tokens()) return absl::OkStatus();
    return place.Error(absl::StrCat("the prompt has ", length,
                                    " tokens, data.max_prompt_tokens is ",
                                    data_.max_prompt_tokens()));
  }

 private:
  const v1::DataSection& data_;
  const text::Tokenizer& tokenizer_;
};

}  // namespace

absl::StatusOr<PromptSet> LoadPrompts(
    const v1::DataSection& data, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
    const text::Tokenizer& tokenizer) {
  const PromptReader reader(data, tokenizer);
  RowPolicy policy(data);
  PromptSet set;
  for (int source = 0; source < sources.size(); ++source) {
    const auto on_row = [&](const RowPlace& place, absl::StatusOr<nlohmann::json> row) {
      if (!row.ok()) return policy.OnBadRow(row.status());
      auto prompt = reader.Read(place, *row);
      if (!prompt.ok()) return policy.OnBadRow(prompt.status());
      if (absl::Status fits = reader.CheckLength(place, *prompt); !fits.ok()) {
        return policy.OnLongRow(fits);
      }
      prompt->set_source(static_cast<uint32_t>(source));
      set.rows.push_back(*std::move(prompt));
      return absl::OkStatus();
    };
    ROLLCALL_RETURN_IF_ERROR(ForEachJsonRow(sources[source].path(), on_row));
  }
  set.left_out = policy.left_out();
  if (set.rows.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "no prompt in ", sources.empty() ? "an empty list of files" : sources[0].path().c_str(),
        sources.size() > 1 ? " and the other files" : "", ": ", set.left_out.unreadable,
        " rows skipped, ", set.left_out.too_long, " dropped for their length"));
  }
  return set;
}

}  // namespace rollcall::learner
