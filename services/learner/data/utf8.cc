#include "services/learner/data/utf8.h"

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace rollcall::learner {
namespace {

constexpr uint64_t kLows = 0x0101010101010101, kHighs = 0x8080808080808080;

// Length of the character that begins at text[at], a byte above 0x7F; 0 where none does.
size_t CharacterLength(std::string_view text, size_t at) {
  const auto byte = [&](size_t index) {
    return at + index < text.size() ? static_cast<unsigned char>(text[at + index]) : 0u;
  };
  const auto follows = [&](size_t index) { return (byte(index) & 0xC0) == 0x80; };
  const unsigned first = byte(0), second = byte(1);
  if (first >= 0xC2 && first <= 0xDF) return follows(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    const bool overlong = first == 0xE0 && second < 0xA0;
    const bool surrogate = first == 0xED && second > 0x9F;
    return follows(1) && follows(2) && !overlong && !surrogate ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const bool overlong = first == 0xF0 && second < 0x90;
    const bool too_large = first == 0xF4 && second > 0x8F;
    return follows(1) && follows(2) && follows(3) && !overlong && !too_large ? 4 : 0;
  }
  return 0;
}

}  // namespace

bool IsPlainUtf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    if (at + 8 <= text.size()) {
      uint64_t eight;
      std::memcpy(&eight, text.data() + at, 8);
      // A high bit in any byte, or a byte of zero.
      if (((eight | ((eight - kLows) & ~eight)) & kHighs) == 0) {
        at += 8;
        continue;
      }
    }
    const auto byte = static_cast<unsigned char>(text[at]);
    if (byte == 0) return false;
    const size_t length = byte < 0x80 ? 1 : CharacterLength(text, at);
    if (length == 0) return false;
    at += length;
  }
  return true;
}

}  // namespace rollcall::learner
