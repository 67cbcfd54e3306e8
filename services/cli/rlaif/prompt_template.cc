#include "services/cli/rlaif/prompt_template.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/config/field_rules.h"

namespace rollcall::cli {
namespace {

std::string InBraces(std::string_view name) { return absl::StrCat("{", std::string(name), "}"); }

absl::Status Unknown(const std::string& name, std::span<const std::string_view> known) {
  const std::vector<std::string> names(known.begin(), known.end());
  const std::optional<std::string> nearest = config::NearestName(name, names);
  std::vector<std::string> shown;
  for (const std::string& each : names) shown.push_back(InBraces(each));
  return absl::InvalidArgumentError(
      absl::StrCat("unknown placeholder ", InBraces(name), "; ",
                   nearest ? absl::StrCat("did you mean ", InBraces(*nearest), "?")
                           : absl::StrCat("expected one of ", absl::StrJoin(shown, ", ")),
                   " ({{ and }} stand for braces)"));
}

}  // namespace

absl::StatusOr<PromptTemplate> PromptTemplate::Parse(std::string_view text,
                                                     std::span<const std::string_view> known) {
  if (std::all_of(text.begin(), text.end(), absl::ascii_isspace)) {
    return absl::InvalidArgumentError("is empty");
  }
  std::vector<Piece> pieces(1);
  while (!text.empty()) {
    const char first = text.front();
    if (first != '{' && first != '}') {
      pieces.back().text += first;
      text.remove_prefix(1);
      continue;
    }
    if (text.size() > 1 && text[1] == first) {
      pieces.back().text += first;
      text.remove_prefix(2);
      continue;
    }
    const size_t end = first == '{' ? text.find_first_of("{}", 1) : std::string_view::npos;
    if (end == std::string_view::npos || text[end] != '}') {
      return absl::InvalidArgumentError(
          absl::StrCat("a single \"", std::string(1, first),
                       "\" opens or closes no placeholder; write it twice for the character"));
    }
    const std::string name(text.substr(1, end - 1));
    if (std::find(known.begin(), known.end(), name) == known.end()) return Unknown(name, known);
    pieces.push_back({.is_placeholder = true, .text = name});
    pieces.emplace_back();
    text.remove_prefix(end + 1);
  }
  return PromptTemplate(std::move(pieces));
}

std::string PromptTemplate::Render(const PlaceholderValues& values) const {
  std::string text;
  for (const Piece& piece : pieces_) {
    if (!piece.is_placeholder) {
      text += piece.text;
    } else if (const auto value = values.find(piece.text); value != values.end()) {
      text += value->second;
    }
  }
  return text;
}

bool PromptTemplate::Has(std::string_view placeholder) const {
  return std::any_of(pieces_.begin(), pieces_.end(), [&](const Piece& piece) {
    return piece.is_placeholder && piece.text == placeholder;
  });
}

}  // namespace rollcall::cli
