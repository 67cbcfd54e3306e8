#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "common/text/crate/rollcall_text.h"

namespace rollcall::text {

// Bytes that the Rust crate wrote, freed with this object. Pass out() to one call only.
class CrateBuffer {
 public:
  CrateBuffer() = default;
  ~CrateBuffer() { rollcall_bytes_free(&bytes_); }
  CrateBuffer(const CrateBuffer&) = delete;
  CrateBuffer& operator=(const CrateBuffer&) = delete;

  RollcallBytes* out() { return &bytes_; }

  std::string ToString() const {
    return bytes_.size == 0 ? std::string()
                            : std::string(reinterpret_cast<const char*>(bytes_.data), bytes_.size);
  }

  // The bytes as numbers of type T, in host order.
  template <typename T>
  std::vector<T> ToVector() const {
    std::vector<T> numbers(bytes_.size / sizeof(T));
    if (!numbers.empty()) std::memcpy(numbers.data(), bytes_.data, numbers.size() * sizeof(T));
    return numbers;
  }

 private:
  RollcallBytes bytes_{nullptr, 0};
};

// The crate's return code and message: OK, INVALID_ARGUMENT (refused) or INTERNAL (panicked).
inline absl::Status CrateStatus(int32_t code, const CrateBuffer& error) {
  if (code == 0) return absl::OkStatus();
  if (code == 1) return absl::InvalidArgumentError(error.ToString());
  return absl::InternalError("text crate: " + error.ToString());
}

inline const uint8_t* CrateBytes(std::string_view text) {
  return reinterpret_cast<const uint8_t*>(text.data());
}

}  // namespace rollcall::text
