#include "common/metrics/exposer.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "common/base/file_descriptor.h"

namespace rollcall::metrics {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// The whole answer of an HTTP GET to 127.0.0.1.
std::string Get(const std::string& bound_address, const std::string& path) {
  const FileDescriptor socket(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in peer{};
  peer.sin_family = AF_INET;
  peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const size_t colon = bound_address.rfind(':');
  peer.sin_port = htons(static_cast<uint16_t>(std::stoi(bound_address.substr(colon + 1))));
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&peer), sizeof(peer)) != 0) return "";
  const std::string request =
      "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
  EXPECT_EQ(::write(socket.get(), request.data(), request.size()),
            static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t count; (count = ::read(socket.get(), buffer, sizeof(buffer))) > 0;) {
    answer.append(buffer, static_cast<size_t>(count));
  }
  return answer;
}

TEST(ExposerTest, ServesTheRegistryOnAFreePort) {
  Registry registry;
  registry.AddCounter("rollcall_test_total", "T.").Increment(5);
  auto exposer = Exposer::Start(registry, "127.0.0.1:0").value();
  EXPECT_THAT(exposer->bound_address(), StartsWith("127.0.0.1:"));
  EXPECT_THAT(exposer->bound_address(), testing::Not(testing::EndsWith(":0")));
  const std::string answer = Get(exposer->bound_address(), "/metrics");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(answer, HasSubstr("rollcall_test_total 5"));
  EXPECT_THAT(Get(exposer->bound_address(), "/other"), StartsWith("HTTP/1.1 404"));
}

TEST(ExposerTest, LocalhostIsANumericHost) {
  Registry registry;
  EXPECT_THAT(Exposer::Start(registry, "localhost:0").value()->bound_address(),
              StartsWith("localhost:"));
}

TEST(ExposerTest, EmptyAddressServesNothing) {
  Registry registry;
  EXPECT_EQ(Exposer::Start(registry, "").value()->bound_address(), "");
}

TEST(ExposerTest, TakenPortIsUnavailable) {
  Registry registry;
  auto first = Exposer::Start(registry, "127.0.0.1:0").value();
  const absl::Status second = Exposer::Start(registry, first->bound_address()).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(second.message(), HasSubstr(first->bound_address()));
}

TEST(ExposerTest, RefusesWhatIsNoAddress) {
  Registry registry;
  for (const char* address : {"9090", ":9090", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000"}) {
    EXPECT_EQ(Exposer::Start(registry, address).status().code(), absl::StatusCode::kInvalidArgument)
        << address;
  }
}

}  // namespace
}  // namespace rollcall::metrics
