#include "services/reward/rules/answer_rules.h"

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "services/reward/rules/column.h"
#include "services/reward/rules/decimal.h"

namespace rollcall::reward {
namespace {

// What follows the last occurrence of `marker`; the whole text for an empty marker, nullopt where
// it does not occur.
std::optional<std::string_view> AfterLast(std::string_view text, std::string_view marker) {
  if (marker.empty()) return text;
  const size_t at = text.rfind(marker);
  if (at == std::string_view::npos) return std::nullopt;
  return text.substr(at + marker.size());
}

class ExactMatch : public Rule {
 public:
  explicit ExactMatch(v1::ExactMatchRule options) : options_(std::move(options)) {}

  void Judge(const v1::VerifierGroup& group, const v1::VerifierSample& sample,
             v1::SampleResult* result) const override {
    const std::optional<std::string> answer = TextOfColumn(group, options_.answer_column(), result);
    if (!answer) return;
    const std::optional<std::string_view> given = AfterLast(sample.text(), options_.after());
    if (!given) {
      SetCorrect(false, absl::StrCat("no \"", options_.after(), "\""), result);
      return;
    }
    const std::string normal = Normalize(*given);
    SetCorrect(normal == Normalize(*answer), normal, result);
  }

  std::vector<std::string> columns() const override { return {options_.answer_column()}; }
  std::vector<std::string> components() const override { return {"correct"}; }

 private:
  std::string Normalize(std::string_view text) const {
    std::string normal(options_.strip() ? StripSpace(text) : text);
    if (options_.ignore_case()) absl::AsciiStrToLower(&normal);
    return normal;
  }

  const v1::ExactMatchRule options_;
};

class NumericAnswer : public Rule {
 public:
  explicit NumericAnswer(v1::NumericAnswerRule options) : options_(std::move(options)) {}

  void Judge(const v1::VerifierGroup& group, const v1::VerifierSample& sample,
             v1::SampleResult* result) const override {
    const std::optional<std::string> column = TextOfColumn(group, options_.answer_column(), result);
    if (!column) return;
    const std::optional<std::string_view> solution =
        options_.marker().empty() ? std::nullopt : AfterLast(*column, options_.marker());
    const std::optional<Decimal> answer = Decimal::ReadWhole(solution.value_or(*column));
    if (!answer) {
      result->mutable_error()->set_reason(absl::StrCat("column ", options_.answer_column(),
                                                       " holds no number: ", CutUtf8(*column, 80)));
      return;
    }
    const std::optional<Decimal> given = ReadAnswer(sample.text());
    SetCorrect(given && given->IsWithin(options_.tolerance(), *answer),
               given ? given->ToString() : "no number", result);
    (*result->mutable_score()->mutable_components())["parsed"] = given ? 1 : 0;
  }

  std::vector<std::string> columns() const override { return {options_.answer_column()}; }
  std::vector<std::string> components() const override { return {"correct", "parsed"}; }

 private:
  std::optional<Decimal> ReadAnswer(std::string_view text) const {
    if (options_.marker().empty()) {
      return options_.flexible() ? Decimal::ReadLast(text) : Decimal::ReadWhole(text);
    }
    if (const auto after = AfterLast(text, options_.marker())) return Decimal::ReadPrefix(*after);
    return options_.flexible() ? Decimal::ReadLast(text) : std::nullopt;
  }

  const v1::NumericAnswerRule options_;
};

}  // namespace

std::unique_ptr<Rule> MakeExactMatch(const v1::ExactMatchRule& options) {
  return std::make_unique<ExactMatch>(options);
}

std::unique_ptr<Rule> MakeNumericAnswer(const v1::NumericAnswerRule& options) {
  return std::make_unique<NumericAnswer>(options);
}

}  // namespace rollcall::reward
