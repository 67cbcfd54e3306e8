#include "services/learner/ranks/rank_processes.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "services/learner/ranks/gloo_process_group.h"

namespace rollcall::learner::testing {
namespace {

std::string RunRank(const GlooOptions& options,
                    const std::function<std::string(ProcessGroup&)>& body) {
  if (options.size == 1) {
    SingleProcess alone;
    return body(alone);
  }
  const auto group = ConnectGloo(options);
  return group.ok() ? body(**group) : absl::StrCat("not connected: ", group.status().ToString());
}

std::string ReadAll(int fd) {
  std::string text;
  char buffer[65536];
  for (ssize_t count; (count = read(fd, buffer, sizeof(buffer))) > 0;) {
    text.append(buffer, static_cast<size_t>(count));
  }
  close(fd);
  return text;
}

void WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = write(fd, text.data(), text.size());
    if (count <= 0) return;
    text.remove_prefix(static_cast<size_t>(count));
  }
}

}  // namespace

std::string FreeLoopbackAddress() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  bind(fd, reinterpret_cast<sockaddr*>(&address), length);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
  close(fd);
  return absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
}

std::vector<RankResult> RunRanks(int ranks, const std::function<std::string(ProcessGroup&)>& body,
                                 absl::Duration timeout) {
  GlooOptions options{.size = ranks, .rendezvous = FreeLoopbackAddress(), .timeout = timeout};
  options.connect_timeout = absl::Seconds(60);
  std::vector<pid_t> children;
  std::vector<int> outputs;
  for (int rank = 0; rank < ranks; ++rank) {
    int ends[2];
    if (pipe(ends) != 0) return {};
    const pid_t child = fork();
    if (child == 0) {
      close(ends[0]);
      signal(SIGPIPE, SIG_IGN);  // as Shutdown does for a service
      options.rank = rank;
      WriteAll(ends[1], RunRank(options, body));
      _exit(0);
    }
    close(ends[1]);
    children.push_back(child);
    outputs.push_back(ends[0]);
  }
  std::vector<RankResult> results;
  for (size_t rank = 0; rank < children.size(); ++rank) {
    RankResult& result = results.emplace_back();
    result.returned = ReadAll(outputs[rank]);
    int status = 0;
    waitpid(children[rank], &status, 0);
    if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
  }
  return results;
}

}  // namespace rollcall::learner::testing
