#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace rollcall::reward {

// A decimal number of any length, so that equality is that of the numbers and not of doubles:
// "1,170" = "1170.00", and 0.1 is not 0.10000000000000001.
class Decimal {
 public:
  // Reads a number as answers write it from the start of `text`: white space, a sign and a currency
  // sign ($, £, € or
  // \$) in either order, then digits with optional thousands commas and an optional fraction
  // ("-$1,234.50"). What follows is left: "42.", "42 apples" and "42km" read as 42. nullopt when no
  // number begins there, or one that this does not read whole: "1/2", "1e5", "1.2.3".
  static std::optional<Decimal> ReadPrefix(std::string_view text);
  // As ReadPrefix, with nothing but white space, a full stop or a percent sign behind the number.
  static std::optional<Decimal> ReadWhole(std::string_view text);
  // The last number anywhere in `text`; a minus directly behind a digit, letter or bracket is not
  // its sign.
  static std::optional<Decimal> ReadLast(std::string_view text);

  bool operator==(const Decimal& other) const = default;

  // |a - b| <= tolerance; tolerance 0 is equality.
  bool IsWithin(double tolerance, const Decimal& other) const;

  // Shortest form: "-1234.5", "0".
  std::string ToString() const;

 private:
  // Reads at `at` and moves it behind the number.
  static std::optional<Decimal> Read(std::string_view text, size_t* at);

  bool negative_ = false;  // false for zero
  std::string whole_;      // digits without leading zeros; "" for 0
  std::string fraction_;   // digits without trailing zeros
};

}  // namespace rollcall::reward
