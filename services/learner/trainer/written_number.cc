#include "services/learner/trainer/written_number.h"

#include <array>
#include <charconv>

namespace rollcall::learner {

double WrittenNumber(float value) {
  std::array<char, 32> text;
  const auto written = std::to_chars(text.data(), text.data() + text.size(), value);
  double number = value;
  std::from_chars(text.data(), written.ptr, number);
  return number;
}

}  // namespace rollcall::learner
