#pragma once

#include <concepts>
#include <cstddef>
#include <string>
#include <string_view>

namespace rollcall::wire {

// Unsigned integers as files and hashes write them, whatever the machine's own order.

template <std::unsigned_integral T>
void AppendLittleEndian(T value, std::string* bytes) {
  for (size_t i = 0; i < sizeof(T); ++i) {
    bytes->push_back(static_cast<char>(static_cast<unsigned char>(value >> (8 * i))));
  }
}

// Reads the first sizeof(T) bytes; `bytes` holds at least as many.
template <std::unsigned_integral T>
T LoadLittleEndian(std::string_view bytes) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    value = static_cast<T>(value | static_cast<T>(static_cast<unsigned char>(bytes[i])) << (8 * i));
  }
  return value;
}

}  // namespace rollcall::wire
