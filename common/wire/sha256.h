#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

struct evp_md_ctx_st;

namespace rollcall::wire {

using Sha256Digest = std::array<uint8_t, 32>;

// Incremental SHA-256. Not thread-safe; movable.
class Sha256 {
 public:
  Sha256();

  void Update(const void* bytes, size_t size);
  void Update(std::string_view bytes) { Update(bytes.data(), bytes.size()); }

  // The digest of everything since construction or the last Finish(); starts over.
  Sha256Digest Finish();

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

Sha256Digest Sha256Of(std::string_view bytes);

// 64 lower-case hex digits, for people.
std::string ToHex(const Sha256Digest& digest);

// The 32 raw bytes, as `bytes` fields of messages carry them, and back; nullopt unless there are
// exactly 32.
std::string ToBytes(const Sha256Digest& digest);
std::optional<Sha256Digest> DigestFromBytes(std::string_view bytes);

}  // namespace rollcall::wire
