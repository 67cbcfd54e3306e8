#include "services/reward/rules/decimal.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "services/reward/rules/column.h"

namespace rollcall::reward {
namespace {

bool IsDigitAt(std::string_view text, size_t at) {
  return at < text.size() && absl::ascii_isdigit(text[at]);
}

void SkipSpace(std::string_view text, size_t* at) {
  while (*at < text.size() && absl::ascii_isspace(text[*at])) ++*at;
}

bool SkipText(std::string_view text, std::string_view expected, size_t* at) {
  if (text.substr(*at, expected.size()) != expected) return false;
  *at += expected.size();
  return true;
}

bool SkipCurrency(std::string_view text, size_t* at) {
  return SkipText(text, "$", at) || SkipText(text, "\\$", at) || SkipText(text, "£", at) ||
         SkipText(text, "€", at);
}

// Whether what stands directly behind the digits makes them a part of something else: a fraction, a
// power of ten, a version.
bool ContinuesNumber(std::string_view text, size_t at) {
  if (at >= text.size()) return false;
  const char c = text[at];
  if (c == '/' || c == '.') return IsDigitAt(text, at + 1);
  if (c != 'e' && c != 'E') return false;
  const bool has_sign = at + 1 < text.size() && (text[at + 1] == '-' || text[at + 1] == '+');
  return IsDigitAt(text, at + 1 + has_sign);
}

}  // namespace

std::optional<Decimal> Decimal::Read(std::string_view text, size_t* at) {
  Decimal number;
  SkipSpace(text, at);
  bool has_sign = false;
  bool has_currency = false;
  while (*at < text.size()) {
    if (!has_sign && (text[*at] == '-' || text[*at] == '+')) {
      number.negative_ = text[*at] == '-';
      has_sign = true;
      ++*at;
    } else if (!has_currency && SkipCurrency(text, at)) {
      has_currency = true;
      SkipSpace(text, at);
    } else {
      break;
    }
  }
  const size_t begin = *at;
  while (IsDigitAt(text, *at) ||
         (*at > begin && *at < text.size() && text[*at] == ',' && IsDigitAt(text, *at + 1))) {
    if (text[*at] != ',') number.whole_ += text[*at];
    ++*at;
  }
  if (*at < text.size() && text[*at] == '.' && IsDigitAt(text, *at + 1)) {
    for (++*at; IsDigitAt(text, *at); ++*at) number.fraction_ += text[*at];
  }
  if (*at == begin || ContinuesNumber(text, *at)) return std::nullopt;
  number.whole_.erase(0, std::min(number.whole_.find_first_not_of('0'), number.whole_.size()));
  number.fraction_.resize(number.fraction_.find_last_not_of('0') + 1);
  if (number.whole_.empty() && number.fraction_.empty()) number.negative_ = false;
  return number;
}

std::optional<Decimal> Decimal::ReadPrefix(std::string_view text) {
  size_t at = 0;
  return Read(text, &at);
}

std::optional<Decimal> Decimal::ReadWhole(std::string_view text) {
  size_t at = 0;
  std::optional<Decimal> number = Read(text, &at);
  const std::string_view rest = StripSpace(text.substr(std::min(at, text.size())));
  return rest.empty() || rest == "." || rest == "%" ? number : std::nullopt;
}

std::optional<Decimal> Decimal::ReadLast(std::string_view text) {
  size_t end = text.size();
  while (end > 0 && !absl::ascii_isdigit(text[end - 1])) --end;
  if (end == 0) return std::nullopt;
  // Back to the start of this run of digits, commas and points, then over its signs.
  size_t begin = end;
  while (begin > 0) {
    const char c = text[begin - 1];
    if (!absl::ascii_isdigit(c) && c != '.' && c != ',') break;
    --begin;
  }
  while (begin < end && text[begin] == ',') ++begin;
  if (text.substr(begin, 2) == "..") begin = text.find_first_not_of('.', begin);  // "...7"
  if (begin > 0 && text[begin - 1] == '$') --begin;
  if (begin > 0 && text[begin - 1] == '-') {
    const char before = begin > 1 ? text[begin - 2] : ' ';
    if (!absl::ascii_isalnum(before) && before != ')' && before != ']') --begin;
  }
  return ReadPrefix(text.substr(begin));
}

bool Decimal::IsWithin(double tolerance, const Decimal& other) const {
  if (*this == other) return true;
  if (!(tolerance > 0)) return false;
  const double difference =
      std::strtod(ToString().c_str(), nullptr) - std::strtod(other.ToString().c_str(), nullptr);
  return std::abs(difference) <= tolerance;
}

std::string Decimal::ToString() const {
  return absl::StrCat(negative_ ? "-" : "", whole_.empty() ? "0" : whole_,
                      fraction_.empty() ? "" : ".", fraction_);
}

}  // namespace rollcall::reward
