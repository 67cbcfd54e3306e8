#include "services/learner/data/pair_columns.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "services/learner/data/chat_encoding.h"
#include "services/learner/data/column_path.h"

namespace rollcall::learner {
namespace {

using nlohmann::json;

// Index of the first message that differs, at most the shorter list's size.
size_t CommonMessages(const json& one, const json& other) {
  const size_t size = std::min(one.size(), other.size());
  size_t at = 0;
  while (at < size && one[at] == other[at]) ++at;
  return at;
}

json From(const json& messages, size_t first) {
  return json(messages.begin() + static_cast<ptrdiff_t>(first), messages.end());
}

json UpTo(const json& messages, size_t end) {
  return json(messages.begin(), messages.begin() + static_cast<ptrdiff_t>(end));
}

// Where a character begins that has a byte at `at`.
size_t CharacterStart(std::string_view text, size_t at) {
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

// How much of both texts is their prompt: up to the word that differs, and without one space before
// it, which tokenizers join with the word.
size_t CommonText(std::string_view one, std::string_view other) {
  const size_t size = std::min(one.size(), other.size());
  size_t at = 0;
  while (at < size && one[at] == other[at]) ++at;
  if (at < one.size()) at = CharacterStart(one, at);
  const auto in_word = [&](size_t index) { return absl::ascii_isalnum(one[index]); };
  const auto ends = [&](std::string_view text) {
    return at >= text.size() || !absl::ascii_isalnum(text[at]);
  };
  if (!ends(one) || !ends(other)) {
    while (at > 0 && in_word(at - 1)) --at;
  }
  if (at > 0 && one[at - 1] == ' ') --at;
  return at;
}

class PairSplitter {
 public:
  PairSplitter(const v1::DataSection& data, const RowPlace& place, const json& row)
      : data_(data), place_(place), row_(row) {}

  absl::StatusOr<PairColumns> Split() const {
    ROLLCALL_ASSIGN_OR_RETURN(const json* chosen, Completion(data_.chosen_column()));
    ROLLCALL_ASSIGN_OR_RETURN(const json* rejected, Completion(data_.rejected_column()));
    const FoundColumn prompt = FindPrompt(data_, row_);
    PairColumns pair{prompt.name, nullptr, *chosen, *rejected};
    if (*chosen == *rejected) return Equal();
    if (prompt.value == nullptr) {
      ROLLCALL_RETURN_IF_ERROR(SplitImplicit(pair));
    } else if (prompt.value->is_string()) {
      ROLLCALL_RETURN_IF_ERROR(SplitByText(*prompt.value, pair));
    } else {
      ROLLCALL_RETURN_IF_ERROR(SplitByMessages(prompt, pair));
    }
    for (const auto& [column, value] : {std::pair(&data_.chosen_column(), &pair.chosen),
                                        std::pair(&data_.rejected_column(), &pair.rejected)}) {
      if (value->empty() || (value->is_string() && value->get_ref<const std::string&>().empty())) {
        return Bad(*column, "expected more than the prompt, got an empty completion");
      }
    }
    return pair;
  }

 private:
  absl::Status Bad(const std::string& column, const std::string& message) const {
    return place_.Error(absl::StrCat("column \"", column, "\": ", message));
  }

  absl::Status Equal() const {
    return Bad(data_.rejected_column(),
               absl::StrCat("expected another completion than \"", data_.chosen_column(),
                            "\" has, got the same: a pair without a difference teaches nothing, "
                            "remove it"));
  }

  absl::StatusOr<const json*> Completion(const std::string& column) const {
    const json* value = FindColumn(row_, column);
    if (value == nullptr) {
      return place_.Error(
          absl::StrCat("expected a column \"", column, "\", the row has: ", ColumnsShown(row_),
                       "; name it by data.",
                       column == data_.chosen_column() ? "chosen" : "rejected", "_column"));
    }
    if (value->is_string() || CheckMessages(*value).ok()) return value;
    return place_.WrongColumn(column, "a string or a list of messages with roles", *value);
  }

  absl::Status SplitImplicit(PairColumns& pair) const {
    pair.prompt_column = data_.chosen_column();
    if (pair.chosen.type() != pair.rejected.type()) {
      return Bad(data_.rejected_column(),
                 absl::StrCat("expected ", pair.chosen.is_string() ? "a string" : "messages",
                              " as in \"", data_.chosen_column(),
                              "\", for the row has no prompt column and the prompt is what both "
                              "begin with"));
    }
    if (pair.chosen.is_string()) {
      const std::string chosen = pair.chosen, rejected = pair.rejected;
      const size_t end = CommonText(chosen, rejected);
      if (end == 0) return NothingShared();
      pair.prompt = chosen.substr(0, end);
      pair.chosen = chosen.substr(end);
      pair.rejected = rejected.substr(end);
      return absl::OkStatus();
    }
    return TakePrompt(pair);
  }

  // Both are whole chats: the prompt is what both begin with.
  absl::Status TakePrompt(PairColumns& pair) const {
    const size_t end = CommonMessages(pair.chosen, pair.rejected);
    if (end == 0) return NothingShared();
    for (const json* side : {&pair.chosen, &pair.rejected}) {
      if (end < side->size() && (*side)[end]["role"] == "user") {
        return Bad(data_.chosen_column(),
                   absl::StrCat("expected answers to the same prompt, but \"",
                                data_.rejected_column(), "\" differs at message ", end,
                                ", which is the user's: pair completions of one chat"));
      }
    }
    pair.prompt = UpTo(pair.chosen, end);
    pair.chosen = From(pair.chosen, end);
    pair.rejected = From(pair.rejected, end);
    return absl::OkStatus();
  }

  absl::Status NothingShared() const {
    return Bad(data_.chosen_column(),
               absl::StrCat("expected the same beginning as in \"", data_.rejected_column(),
                            "\", for the row has no column \"", data_.prompt_column(),
                            "\" and the prompt is what both begin with; put the prompt in a column "
                            "and name it by data.prompt_column"));
  }

  absl::Status SplitByText(const json& prompt, PairColumns& pair) const {
    if (pair.chosen.is_string() && pair.rejected.is_string()) {
      pair.prompt = prompt;
      return absl::OkStatus();
    }
    if (pair.chosen.is_string() || pair.rejected.is_string()) {
      return place_.WrongColumn(
          pair.chosen.is_string() ? data_.rejected_column() : data_.chosen_column(),
          "a string, as the prompt and the other completion are",
          pair.chosen.is_string() ? pair.rejected : pair.chosen);
    }
    ROLLCALL_RETURN_IF_ERROR(TakePrompt(pair));
    const auto is_prompt = [&](const json& message) {
      return message.contains("content") && message["content"] == prompt;
    };
    if (std::any_of(pair.prompt.begin(), pair.prompt.end(), is_prompt)) return absl::OkStatus();
    return NoPrefix(pair.prompt_column, data_.chosen_column());
  }

  absl::Status SplitByMessages(const FoundColumn& prompt, PairColumns& pair) const {
    if (!CheckMessages(*prompt.value).ok()) {
      return place_.WrongColumn(prompt.name, "a string or a list of messages with roles",
                                *prompt.value);
    }
    pair.prompt = *prompt.value;
    for (const auto& [column, value] : {std::pair(&data_.chosen_column(), &pair.chosen),
                                        std::pair(&data_.rejected_column(), &pair.rejected)}) {
      if (value->is_string()) continue;
      if (CommonMessages(*value, pair.prompt) == pair.prompt.size()) {
        *value = From(*value, pair.prompt.size());
        continue;
      }
      const json& first = (*value)[0]["role"];
      if (first == "user" || first == "system") return NoPrefix(prompt.name, *column);
    }
    return absl::OkStatus();
  }

  absl::Status NoPrefix(const std::string& prompt, const std::string& column) const {
    return Bad(column, absl::StrCat("expected a chat that begins with column \"", prompt,
                                    "\", got another beginning: correct the prompt, or set "
                                    "data.prompt_column: \"\" to take it from the two chats"));
  }

  const v1::DataSection& data_;
  const RowPlace& place_;
  const json& row_;
};

}  // namespace

absl::StatusOr<PairColumns> SplitPair(const v1::DataSection& data, const RowPlace& place,
                                      const nlohmann::json& row) {
  return PairSplitter(data, place, row).Split();
}

}  // namespace rollcall::learner
