#include "common/rpc/address.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/file_descriptor.h"

namespace rollcall::rpc {
namespace {

constexpr std::string_view kUnixPrefix = "unix:";

absl::Status Malformed(std::string_view text, std::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("address \"", std::string(text), "\": ", std::string(why)));
}

absl::StatusOr<Address> ParseUnix(std::string_view text) {
  Address address;
  address.unix_path = std::string(text.substr(kUnixPrefix.size()));
  if (address.unix_path.empty()) return Malformed(text, "expected a path after unix:");
  if (address.unix_path.size() > kMaxUnixPathBytes) {
    return Malformed(text, absl::StrCat("the socket's path has ", address.unix_path.size(),
                                        " bytes, and the system allows ", kMaxUnixPathBytes,
                                        "; use a shorter folder"));
  }
  if (address.unix_path.find('\0') != std::string::npos) return Malformed(text, "zero byte");
  return address;
}

}  // namespace

std::string Address::ToString() const {
  if (is_unix()) return absl::StrCat(std::string(kUnixPrefix), unix_path);
  const bool bracketed = host.find(':') != std::string::npos;
  return bracketed ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

absl::StatusOr<Address> ParseAddress(std::string_view text) {
  if (text.starts_with(kUnixPrefix)) return ParseUnix(text);
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) {
    return Malformed(text, "expected unix:/path or host:port");
  }
  std::string_view host = text.substr(0, colon);
  const bool bracketed = host.starts_with('[') && host.ends_with(']');
  if (bracketed) host = host.substr(1, host.size() - 2);
  const bool colons = host.find(':') != std::string_view::npos;
  if (host.empty() || bracketed != colons ||
      host.find_first_of("/[] \t\n") != std::string_view::npos) {
    return Malformed(text, "expected unix:/path or host:port, with [] around an IPv6 host");
  }
  const std::string_view digits = text.substr(colon + 1);
  int port = -1;
  if (digits.find_first_not_of("0123456789") != std::string_view::npos ||
      !absl::SimpleAtoi(absl::string_view(digits.data(), digits.size()), &port) || port > 65535) {
    return Malformed(
        text, absl::StrCat("expected a port from 0 to 65535, got \"", std::string(digits), "\""));
  }
  Address address;
  address.host = std::string(host);
  address.port = static_cast<uint16_t>(port);
  return address;
}

absl::Status RemoveStaleUnixSocket(const std::string& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at ", path));
  }
  if (!S_ISSOCK(info.st_mode)) {
    return absl::AlreadyExistsError(absl::StrCat(path, " exists and is not a socket"));
  }
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  if (path.size() > kMaxUnixPathBytes) return Malformed(path, "path too long for a socket");
  std::memcpy(name.sun_path, path.data(), path.size());
  const FileDescriptor probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe.is_open()) return absl::ErrnoToStatus(errno, "cannot make a socket");
  const bool connected =
      ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&name), sizeof(name)) == 0;
  // Only a refusal says that nobody listens; a full backlog (EAGAIN) says that somebody does.
  if (connected || errno == EAGAIN) {
    return absl::AlreadyExistsError(absl::StrCat("another process listens on unix:", path));
  }
  if (errno != ECONNREFUSED) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot probe the socket ", path));
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot remove the stale socket ", path));
  }
  return absl::OkStatus();
}

}  // namespace rollcall::rpc
