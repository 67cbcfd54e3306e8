#include "services/cli/up/prometheus.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "common/base/file.h"
#include "common/base/file_descriptor.h"
#include "common/base/status.h"
#include "common/rpc/address.h"
#include "services/cli/up/prometheus_rules.h"

namespace rollcall::cli {
namespace {

constexpr uint16_t kUsualPort = 9090;
// Opening an old run's data takes seconds.
constexpr absl::Duration kStartTimeout = absl::Seconds(60);
constexpr absl::Duration kStopTimeout = absl::Seconds(20);
constexpr absl::Duration kTick = absl::Milliseconds(50);
constexpr size_t kLogLinesShown = 8;

bool IsProgram(const std::string& path) {
  return std::filesystem::is_regular_file(path) && ::access(path.c_str(), X_OK) == 0;
}

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::vector<std::string> Candidates() {
  std::vector<std::string> found;
  for (const auto& folder : absl::StrSplit(Environment("PATH"), ':', absl::SkipEmpty())) {
    found.push_back(absl::StrCat(folder, "/prometheus"));
  }
  std::string cache = Environment("XDG_CACHE_HOME");
  if (cache.empty()) cache = Environment("HOME") + "/.cache";
  found.push_back(cache + "/rollcall/prometheus/usr/bin/prometheus");
  return found;
}

// A TCP connection to the address; not open where nobody listens.
FileDescriptor Connect(const rpc::Address& address) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  if (::getaddrinfo(address.host.c_str(), absl::StrCat(address.port).c_str(), &hints, &list) != 0) {
    return {};
  }
  FileDescriptor connected;
  for (const addrinfo* one = list; one != nullptr && !connected.is_open(); one = one->ai_next) {
    FileDescriptor fd(::socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::connect(fd.get(), one->ai_addr, one->ai_addrlen) == 0) connected = std::move(fd);
  }
  ::freeaddrinfo(list);
  return connected;
}

// Whether Prometheus answers queries there: it listens before it has opened its data.
bool IsReady(const rpc::Address& address) {
  const FileDescriptor fd = Connect(address);
  constexpr std::string_view kQuestion = "GET /-/ready HTTP/1.0\r\n\r\n";
  if (!fd.is_open() || ::send(fd.get(), kQuestion.data(), kQuestion.size(), MSG_NOSIGNAL) < 0) {
    return false;
  }
  const timeval patience = {.tv_sec = 1, .tv_usec = 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  char status[12] = {};  // "HTTP/1.0 200"
  const ssize_t count = ::recv(fd.get(), status, sizeof(status), MSG_WAITALL);
  return count == sizeof(status) && std::string_view(status, sizeof(status)).ends_with(" 200");
}

std::string LastLines(const std::string& path) {
  std::vector<std::string> lines =
      absl::StrSplit(ReadFile(path).value_or(""), '\n', absl::SkipEmpty());
  if (lines.size() > kLogLinesShown) {
    lines.erase(lines.begin(), lines.end() - static_cast<ptrdiff_t>(kLogLinesShown));
  }
  return absl::StrJoin(lines, "\n");
}

absl::StatusOr<std::string> ListenAddress(const std::string& wanted) {
  if (!wanted.empty()) {
    ROLLCALL_ASSIGN_OR_RETURN(const rpc::Address address, rpc::ParseAddress(wanted));
    if (address.is_unix() || address.port == 0) {
      return absl::InvalidArgumentError("--listen: expected host:port, got " + wanted);
    }
    if (Connect(address).is_open()) return absl::FailedPreconditionError(wanted + " is taken");
    return wanted;
  }
  const rpc::Address usual{.unix_path = "", .host = "127.0.0.1", .port = kUsualPort};
  if (!Connect(usual).is_open()) return usual.ToString();
  ROLLCALL_ASSIGN_OR_RETURN(const uint16_t port, FindFreePorts(1));
  return absl::StrCat("127.0.0.1:", port);
}

}  // namespace

absl::StatusOr<std::string> Prometheus::FindBinary(const std::string& wanted) {
  for (const std::string& named : {wanted, Environment("ROLLCALL_PROMETHEUS")}) {
    if (named.empty()) continue;
    if (IsProgram(named)) return named;
    return absl::NotFoundError(named + " is no program");
  }
  for (const std::string& candidate : Candidates()) {
    if (IsProgram(candidate)) return candidate;
  }
  return absl::NotFoundError(
      "no prometheus on the PATH: install Debian's package (apt-get install prometheus), or say "
      "where it is by --prometheus; ./rollcall up does it by itself");
}

absl::StatusOr<std::unique_ptr<Prometheus>> Prometheus::Start(const Options& options) {
  const std::string rules = options.folder + "/rules";
  ROLLCALL_RETURN_IF_ERROR(MakeDirectories(rules));
  for (const RuleFile& file : PrometheusRules()) {
    ROLLCALL_RETURN_IF_ERROR(
        WriteFileAtomically(absl::StrCat(rules, "/", std::string(file.name)), file.text));
  }
  const std::string config = options.folder + "/prometheus.yml";
  // Prometheus takes relative paths from the configuration's folder.
  ROLLCALL_RETURN_IF_ERROR(WriteFileAtomically(
      config, PrometheusConfig(options.targets, options.scrape_seconds, "rules")));
  ROLLCALL_ASSIGN_OR_RETURN(std::string address, ListenAddress(options.listen));
  std::string log_path = options.folder + "/prometheus.log";
  ROLLCALL_ASSIGN_OR_RETURN(
      std::unique_ptr<ChildProcess> child,
      ChildProcess::Start({.name = "prometheus",
                           .argv = {options.binary, "--config.file=" + config,
                                    "--storage.tsdb.path=" + options.folder + "/data",
                                    "--web.listen-address=" + address, "--log.level=warn"},
                           .log_path = log_path,
                           .cores = {}}));
  auto started = std::unique_ptr<Prometheus>(
      new Prometheus(std::move(child), std::move(address), std::move(log_path)));
  ROLLCALL_RETURN_IF_ERROR(started->AwaitReady());
  return started;
}

absl::Status Prometheus::AwaitReady() {
  ROLLCALL_ASSIGN_OR_RETURN(const rpc::Address address, rpc::ParseAddress(address_));
  const absl::Time deadline = absl::Now() + kStartTimeout;
  while (!IsReady(address)) {
    if (const std::optional<ChildExit> ended = Ended()) {
      return absl::FailedPreconditionError(absl::StrCat("prometheus ended with ", ended->Describe(),
                                                        "; the end of its log ", log_path_, ":\n",
                                                        LastLines(log_path_)));
    }
    if (absl::Now() > deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("prometheus is not ready on ", address_, "; log: ", log_path_));
    }
    pollfd exit{child_->exit_fd(), POLLIN, 0};
    ::poll(&exit, 1, static_cast<int>(absl::ToInt64Milliseconds(kTick)));
  }
  return absl::OkStatus();
}

Prometheus::~Prometheus() {
  child_->Signal(SIGTERM);
  pollfd exit{child_->exit_fd(), POLLIN, 0};
  ::poll(&exit, 1, static_cast<int>(absl::ToInt64Milliseconds(kStopTimeout)));
}

}  // namespace rollcall::cli
