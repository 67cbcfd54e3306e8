#include "common/rpc/listener.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"
#include "common/base/status.h"

namespace rollcall::rpc {
namespace {

// A burst of a thousand peers, a learner's whole fleet after a restart, waits here for its turn.
constexpr int kBacklog = 1024;
// How often the count of open connections is brought up to date while nobody connects.
constexpr int kRecountMilliseconds = 1000;

struct AddressListFreer {
  void operator()(addrinfo* first) const { ::freeaddrinfo(first); }
};

void SetPort(sockaddr* address, uint16_t port) {
  if (address->sa_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(address)->sin6_port = htons(port);
  } else {
    reinterpret_cast<sockaddr_in*>(address)->sin_port = htons(port);
  }
}

absl::StatusOr<uint16_t> PortOf(int socket) {
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  if (::getsockname(socket, reinterpret_cast<sockaddr*>(&bound), &size) != 0) {
    return absl::ErrnoToStatus(errno, "getsockname");
  }
  return ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                           : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
}

// A closed descriptor where this machine does not have the address.
absl::StatusOr<FileDescriptor> ListenOn(const addrinfo& info, const std::string& text) {
  FileDescriptor socket(
      ::socket(info.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
  if (!socket.is_open()) {
    if (errno == EAFNOSUPPORT) return socket;
    return absl::ErrnoToStatus(errno, "cannot make a socket");
  }
  const int on = 1;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on,
               sizeof(on));  // accepted ones inherit it
  if (info.ai_family == AF_INET6) {
    ::setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
  }
  if (::bind(socket.get(), info.ai_addr, info.ai_addrlen) != 0 ||
      ::listen(socket.get(), kBacklog) != 0) {
    if (errno == EADDRNOTAVAIL) return FileDescriptor();
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", text, ": ", std::strerror(errno)));
  }
  return socket;
}

}  // namespace

bool OpenConnections::TryAdd(int descriptor, size_t limit) {
  if (inode_of_.size() >= limit && CountOpen() >= limit) return false;
  struct stat info {};
  if (::fstat(descriptor, &info) != 0) return false;
  inode_of_[descriptor] = info.st_ino;
  return true;
}

size_t OpenConnections::CountOpen() {
  std::erase_if(inode_of_, [](const auto& entry) {
    struct stat info {};
    return ::fstat(entry.first, &info) != 0 || info.st_ino != entry.second;
  });
  return inode_of_.size();
}

absl::StatusOr<std::unique_ptr<Listener>> Listener::Bind(const Address& address,
                                                         size_t max_connections) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(address.host.c_str(), nullptr, &hints, &found); error != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot listen on ", address.ToString(), ": ", ::gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, AddressListFreer> addresses(found);
  uint16_t port = address.port;
  std::vector<FileDescriptor> sockets;
  for (addrinfo* info = addresses.get(); info != nullptr; info = info->ai_next) {
    SetPort(info->ai_addr, port);
    ROLLCALL_ASSIGN_OR_RETURN(FileDescriptor socket, ListenOn(*info, address.ToString()));
    if (!socket.is_open()) continue;
    ROLLCALL_ASSIGN_OR_RETURN(port, PortOf(socket.get()));
    sockets.push_back(std::move(socket));
  }
  if (sockets.empty()) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address.ToString(), ": no address of this machine"));
  }
  FileDescriptor wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.is_open()) return absl::ErrnoToStatus(errno, "cannot make an eventfd");
  return std::unique_ptr<Listener>(
      new Listener(std::move(sockets), std::move(wake), port, max_connections));
}

Listener::Listener(std::vector<FileDescriptor> sockets, FileDescriptor wake, uint16_t port,
                   size_t max_connections)
    : sockets_(std::move(sockets)),
      wake_(std::move(wake)),
      port_(port),
      max_connections_(max_connections) {}

void Listener::Export(metrics::Registry* metrics) {
  open_ = &metrics->AddGauge("rollcall_connections", "Open TCP connections of the data port.");
  refused_ = &metrics->AddCounter(
      "rollcall_connections_refused_total",
      "TCP connections closed at once: security.limits.max_connections, or no descriptors left.");
}

void Listener::CountRefused() {
  if (refused_ != nullptr) refused_->Increment();
}

void Listener::Start(Handler handler) {
  handler_ = std::move(handler);
  thread_ = std::thread([this] { Run(); });
}

void Listener::Stop() {
  const uint64_t one = 1;
  // Cannot fail: the counter is far from full.
  [[maybe_unused]] const ssize_t written = ::write(wake_.get(), &one, sizeof(one));
  if (thread_.joinable()) thread_.join();
  sockets_.clear();
}

void Listener::Run() {
  std::vector<pollfd> watched = {{wake_.get(), POLLIN, 0}};
  for (const FileDescriptor& socket : sockets_) watched.push_back({socket.get(), POLLIN, 0});
  while (true) {
    const int ready = ::poll(watched.data(), watched.size(), kRecountMilliseconds);
    if (ready < 0 && errno != EINTR) {
      LogError("listener failed", {{"error", std::strerror(errno)}});
      return;
    }
    if (ready > 0 && watched[0].revents != 0) return;
    for (size_t i = 1; ready > 0 && i < watched.size(); ++i) {
      if (watched[i].revents != 0) AcceptAll(watched[i].fd);
    }
    if (open_ != nullptr) open_->Set(static_cast<double>(connections_.CountOpen()));
  }
}

void Listener::AcceptAll(int socket) {
  while (true) {
    FileDescriptor connection(::accept4(socket, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!connection.is_open()) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return;
      // Out of descriptors or memory: the connection stays in the backlog. A moment's wait, ended
      // by Stop, keeps this thread from spinning on it.
      CountRefused();
      pollfd wake{wake_.get(), POLLIN, 0};
      ::poll(&wake, 1, /*timeout=*/100);
      return;
    }
    if (!connections_.TryAdd(connection.get(), max_connections_)) {
      CountRefused();
      continue;  // closes it
    }
    handler_(socket, connection.Release());
  }
}

}  // namespace rollcall::rpc
