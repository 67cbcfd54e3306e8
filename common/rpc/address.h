#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace rollcall::rpc {

// Where a service listens or is found: "unix:/path/to.sock" or "host:port" ("[::1]:7401" for IPv6).
struct Address {
  std::string unix_path;  // empty for TCP
  std::string host;       // TCP only, without brackets
  uint16_t port = 0;      // TCP only; 0 asks for a free one and can only be listened on

  bool is_unix() const { return !unix_path.empty(); }
  // The text form, which is also gRPC's target.
  std::string ToString() const;
};

// Longest path of a Unix socket: the kernel's sun_path is 108 bytes with the terminating zero.
inline constexpr size_t kMaxUnixPathBytes = 107;

// INVALID_ARGUMENT quotes the text and says what is wrong with it.
absl::StatusOr<Address> ParseAddress(std::string_view text);

// Makes room to listen at `path`: OK when nothing is there, or after removing a socket that nobody
// listens on any more. ALREADY_EXISTS when somebody does, or when the file is not a socket. Two
// servers that start on one path at the same moment are not told apart here.
absl::Status RemoveStaleUnixSocket(const std::string& path);

}  // namespace rollcall::rpc
