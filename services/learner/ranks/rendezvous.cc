#include "services/learner/ranks/rendezvous.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/peer_loss.h"
#include "common/base/status.h"

namespace rollcall::learner {
namespace {

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

absl::StatusOr<AddressList> Resolve(const std::string& host, uint16_t port, int flags) {
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (error != 0) {
    return PeerLostError(
        absl::StrCat("learner.rendezvous: ", host, ": ", std::string(gai_strerror(error))));
  }
  return AddressList(found, &freeaddrinfo);
}

class Socket {
 public:
  Socket(int family, int type) : fd_(socket(family, type | SOCK_CLOEXEC, 0)) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int fd() const { return fd_; }
  int Release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }

 private:
  int fd_;
};

absl::Status Failure(const std::string& what) {
  return PeerLostError(absl::StrCat("learner.rendezvous: ", what, ": ", std::strerror(errno)));
}

// The address that a datagram to `to` would be sent from.
absl::StatusOr<std::string> SourceAddress(const addrinfo& to) {
  const Socket socket(to.ai_family, SOCK_DGRAM);
  if (socket.fd() < 0 || connect(socket.fd(), to.ai_addr, to.ai_addrlen) != 0) {
    return Failure("no way there");
  }
  sockaddr_storage own = {};
  socklen_t length = sizeof(own);
  if (getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&own), &length) != 0) {
    return Failure("no address of this machine");
  }
  char text[NI_MAXHOST] = "";
  if (getnameinfo(reinterpret_cast<sockaddr*>(&own), length, text, sizeof(text), nullptr, 0,
                  NI_NUMERICHOST) != 0) {
    return Failure("no address of this machine");
  }
  return std::string(text);
}

}  // namespace

absl::StatusOr<Rendezvous> ResolveRendezvous(const std::string& address) {
  Rendezvous rendezvous;
  const size_t colon = address.rfind(':');
  uint32_t port = 0;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port == 0 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("learner.rendezvous: expected host:port, got \"", address, "\""));
  }
  rendezvous.port = static_cast<uint16_t>(port);
  rendezvous.host = address.substr(0, colon);
  if (rendezvous.host.front() == '[' && rendezvous.host.back() == ']') {
    rendezvous.host = rendezvous.host.substr(1, rendezvous.host.size() - 2);
  }
  ROLLCALL_ASSIGN_OR_RETURN(const AddressList found,
                            Resolve(rendezvous.host, rendezvous.port, /*flags=*/0));
  ROLLCALL_ASSIGN_OR_RETURN(rendezvous.own_address, SourceAddress(*found));
  return rendezvous;
}

absl::StatusOr<int> ListenAt(const Rendezvous& rendezvous) {
  ROLLCALL_ASSIGN_OR_RETURN(const AddressList found,
                            Resolve(rendezvous.host, rendezvous.port, AI_PASSIVE));
  Socket socket(found->ai_family, SOCK_STREAM);
  const int yes = 1;
  if (socket.fd() < 0 ||
      setsockopt(socket.fd(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) != 0 ||
      bind(socket.fd(), found->ai_addr, found->ai_addrlen) != 0 ||
      listen(socket.fd(), SOMAXCONN) != 0) {
    return Failure(absl::StrCat("rank 0 cannot listen at ", rendezvous.host, ":", rendezvous.port,
                                ", which must be its own"));
  }
  return socket.Release();
}

}  // namespace rollcall::learner
