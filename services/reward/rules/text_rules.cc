#include "services/reward/rules/text_rules.h"

#include <re2/re2.h>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "services/reward/rules/column.h"

namespace rollcall::reward {
namespace {

// A pattern is written by a person; RE2 refuses one whose automaton outgrows the memory limit, at
// construction.
constexpr size_t kMaxPatternBytes = 4096;
constexpr int64_t kMaxRegexMemoryBytes = 8 << 20;

class Regex : public Rule {
 public:
  Regex(v1::RegexRule options, std::unique_ptr<re2::RE2> regex)
      : options_(std::move(options)), regex_(std::move(regex)) {}

  void Judge(const v1::VerifierGroup& group, const v1::VerifierSample& sample,
             v1::SampleResult* result) const override {
    if (options_.answer_column().empty()) {
      const bool matches = options_.full_match() ? re2::RE2::FullMatch(sample.text(), *regex_)
                                                 : re2::RE2::PartialMatch(sample.text(), *regex_);
      SetCorrect(matches, matches ? "matches" : "no match", result);
      return;
    }
    const std::optional<std::string> answer = TextOfColumn(group, options_.answer_column(), result);
    if (!answer) return;
    const std::optional<std::string> given = LastCapture(sample.text());
    SetCorrect(given && StripSpace(*given) == StripSpace(*answer), given.value_or("no match"),
               result);
  }

  std::vector<std::string> columns() const override {
    if (options_.answer_column().empty()) return {};
    return {options_.answer_column()};
  }
  std::vector<std::string> components() const override { return {"correct"}; }

 private:
  // First capture group of the last match; a group that took no part is the empty text.
  std::optional<std::string> LastCapture(const std::string& text) const {
    const re2::StringPiece piece(text);
    re2::StringPiece match[2];
    std::optional<std::string> capture;
    const auto anchor = options_.full_match() ? re2::RE2::ANCHOR_BOTH : re2::RE2::UNANCHORED;
    size_t at = 0;
    while (at <= text.size() && regex_->Match(piece, at, text.size(), anchor, match, 2)) {
      capture = std::string(match[1].data() == nullptr ? "" : match[1].data(), match[1].size());
      if (options_.full_match()) break;
      const size_t end = match[0].data() - text.data() + match[0].size();
      at = std::max(end, at + 1);
      if (match[0].empty() && at == end) ++at;  // An empty match further on: step over it.
    }
    return capture;
  }

  const v1::RegexRule options_;
  const std::unique_ptr<re2::RE2> regex_;
};

class Length : public Rule {
 public:
  explicit Length(v1::LengthRule options) : options_(std::move(options)) {}

  void Judge(const v1::VerifierGroup&, const v1::VerifierSample& sample,
             v1::SampleResult* result) const override {
    const int64_t tokens = sample.token_ids_size();
    const bool stopped = sample.finish_reason() == v1::FINISH_REASON_STOP_TOKEN ||
                         sample.finish_reason() == v1::FINISH_REASON_STOP_STRING;
    int64_t outside = std::max<int64_t>(0, options_.min_tokens() - tokens);
    if (options_.max_tokens() != 0) {
      outside = std::max<int64_t>(outside, tokens - options_.max_tokens());
    }
    const double soft = options_.soft_tokens();
    double value = outside == 0 ? 1 : soft == 0 ? 0 : std::max(0.0, 1 - outside / soft);
    if (options_.require_stop() && !stopped) value = 0;
    v1::Score* score = result->mutable_score();
    score->set_value(value);
    (*score->mutable_components())["tokens"] = static_cast<double>(tokens);
    (*score->mutable_components())["stopped"] = stopped ? 1 : 0;
    score->set_detail(absl::StrCat(tokens, " tokens", stopped ? "" : ", cut off"));
  }

  std::vector<std::string> columns() const override { return {}; }
  std::vector<std::string> components() const override { return {"stopped", "tokens"}; }

 private:
  const v1::LengthRule options_;
};

// Whether the byte at `at` belongs to a word; every byte of a character beyond ASCII counts as a
// letter.
bool IsWordByte(std::string_view text, size_t at) {
  return at < text.size() &&
         (absl::ascii_isalnum(text[at]) || static_cast<unsigned char>(text[at]) >= 0x80);
}

class Contains : public Rule {
 public:
  explicit Contains(v1::ContainsRule options) : options_(std::move(options)) {}

  void Judge(const v1::VerifierGroup& group, const v1::VerifierSample& sample,
             v1::SampleResult* result) const override {
    std::vector<std::string> wanted(options_.texts().begin(), options_.texts().end());
    if (!options_.column().empty()) {
      const auto texts = TextsOfColumn(group, options_.column(), result);
      if (!texts) return;
      wanted.insert(wanted.end(), texts->begin(), texts->end());
    }
    if (wanted.empty()) {
      result->mutable_error()->set_reason(
          absl::StrCat("column ", options_.column(), " is an empty list: nothing to look for"));
      return;
    }
    const std::string text = Fold(sample.text());
    size_t found = 0;
    std::string missing;
    for (const std::string& phrase : wanted) {
      if (Occurs(Fold(phrase), text)) {
        ++found;
      } else if (missing.empty()) {
        missing = absl::StrCat("no \"", phrase, "\"");
      }
    }
    SetCorrect(found == wanted.size(), missing, result);
    (*result->mutable_score()->mutable_components())["found"] =
        static_cast<double>(found) / static_cast<double>(wanted.size());
  }

  std::vector<std::string> columns() const override {
    if (options_.column().empty()) return {};
    return {options_.column()};
  }
  std::vector<std::string> components() const override { return {"correct", "found"}; }

 private:
  std::string Fold(const std::string& text) const {
    return options_.ignore_case() ? absl::AsciiStrToLower(text) : text;
  }

  bool Occurs(std::string_view phrase, std::string_view text) const {
    if (!options_.whole_word()) return text.find(phrase) != std::string_view::npos;
    for (size_t at = text.find(phrase); at != std::string_view::npos;
         at = text.find(phrase, at + 1)) {
      const bool joins_left = at > 0 && IsWordByte(text, at - 1) && IsWordByte(phrase, 0);
      const bool joins_right =
          IsWordByte(text, at + phrase.size()) && IsWordByte(phrase, phrase.size() - 1);
      if (!joins_left && !joins_right) return true;
    }
    return false;
  }

  const v1::ContainsRule options_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Rule>> MakeRegex(const v1::RegexRule& options) {
  if (options.pattern().size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(absl::StrCat("regex.pattern: ", options.pattern().size(),
                                                   " bytes, at most ", kMaxPatternBytes));
  }
  re2::RE2::Options limits;
  limits.set_log_errors(false);
  limits.set_max_mem(kMaxRegexMemoryBytes);
  auto regex = std::make_unique<re2::RE2>(options.pattern(), limits);
  if (!regex->ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("regex.pattern: RE2 refuses it: ", regex->error()));
  }
  if (!options.answer_column().empty() && regex->NumberOfCapturingGroups() < 1) {
    return absl::InvalidArgumentError(
        "regex.pattern: needs a capture group to compare with regex.answer_column");
  }
  return std::make_unique<Regex>(options, std::move(regex));
}

std::unique_ptr<Rule> MakeLength(const v1::LengthRule& options) {
  return std::make_unique<Length>(options);
}

std::unique_ptr<Rule> MakeContains(const v1::ContainsRule& options) {
  return std::make_unique<Contains>(options);
}

}  // namespace rollcall::reward
