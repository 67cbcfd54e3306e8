#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace rollcall::cli {

// What placeholders stand for, by their names.
using PlaceholderValues = std::map<std::string, std::string, std::less<>>;

// Text with places to fill in: "Is {answer} kind?", where {{ and }} stand for braces. Immutable; thread-safe.
class PromptTemplate {
 public:
  // INVALID_ARGUMENT: a placeholder that is not among `known` (the nearest one is named), a brace that is neither opened
  // nor closed, or nothing but white space.
  static absl::StatusOr<PromptTemplate> Parse(std::string_view text,
                                              std::span<const std::string_view> known);

  // Values are put in as they are, whatever braces they hold. A placeholder without a value stands for nothing.
  std::string Render(const PlaceholderValues& values) const;

  bool Has(std::string_view placeholder) const;

 private:
  struct Piece {
    bool is_placeholder = false;
    std::string text;  // or the placeholder's name
  };
  explicit PromptTemplate(std::vector<Piece> pieces) : pieces_(std::move(pieces)) {}

  std::vector<Piece> pieces_;
};

}  // namespace rollcall::cli
