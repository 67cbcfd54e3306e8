#include "common/rpc/address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>

#include "common/base/file.h"
#include "common/base/file_descriptor.h"

namespace rollcall::rpc {
namespace {

using testing::HasSubstr;

TEST(ParseAddressTest, AcceptsBothKinds) {
  EXPECT_EQ(ParseAddress("unix:/run/x.sock")->unix_path, "/run/x.sock");
  EXPECT_EQ(ParseAddress("unix:/run/x.sock")->ToString(), "unix:/run/x.sock");
  EXPECT_EQ(ParseAddress("localhost:7401")->host, "localhost");
  EXPECT_EQ(ParseAddress("localhost:7401")->port, 7401);
  EXPECT_EQ(ParseAddress("[::1]:0")->host, "::1");
  EXPECT_EQ(ParseAddress("[::1]:0")->ToString(), "[::1]:0");
}

TEST(ParseAddressTest, RefusalsQuoteTheText) {
  for (const char* text : {"", "7401", ":7401", "unix:", "host:", "host:x", "host:-1", "host:70000",
                           "::1:7401", "[host]:1", "http://host:1", "a b:1", "host: 1"}) {
    const absl::Status status = ParseAddress(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("\"" + std::string(text) + "\""));
  }
}

TEST(ParseAddressTest, LongUnixPathIsNamedWithTheLimit) {
  const std::string longest = "/" + std::string(kMaxUnixPathBytes - 1, 'p');
  EXPECT_TRUE(ParseAddress("unix:" + longest).ok());
  const std::string message(ParseAddress("unix:" + longest + "p").status().message());
  EXPECT_THAT(message, HasSubstr(longest + "p"));
  EXPECT_THAT(message, HasSubstr("108 bytes, and the system allows 107"));
}

class StaleSocketTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = "/tmp/rollcall_address_test.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    path_ = folder_ + "/s";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  FileDescriptor Bind() const {
    FileDescriptor socket(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    std::strcpy(name.sun_path, path_.c_str());
    EXPECT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&name), sizeof(name)), 0);
    return socket;
  }

  std::string folder_;
  std::string path_;
};

TEST_F(StaleSocketTest, NothingThereIsFine) {
  EXPECT_TRUE(RemoveStaleUnixSocket(path_).ok());
  EXPECT_TRUE(RemoveStaleUnixSocket(folder_ + "/no/such").ok());
}

TEST_F(StaleSocketTest, SocketOfADeadProcessIsRemoved) {
  Bind().Close();
  ASSERT_TRUE(std::filesystem::exists(path_));
  EXPECT_TRUE(RemoveStaleUnixSocket(path_).ok());
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(StaleSocketTest, LiveSocketStaysEvenWithAFullBacklog) {
  const FileDescriptor listener = Bind();
  ASSERT_EQ(::listen(listener.get(), 0), 0);
  for (int i = 0; i < 5; ++i) {  // nobody accepts, so the backlog fills
    const absl::Status status = RemoveStaleUnixSocket(path_);
    EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
    EXPECT_THAT(std::string(status.message()), HasSubstr(path_));
  }
  EXPECT_TRUE(std::filesystem::exists(path_));
}

TEST_F(StaleSocketTest, OtherFilesStay) {
  ASSERT_TRUE(WriteFileAtomically(path_, "precious").ok());
  EXPECT_EQ(RemoveStaleUnixSocket(path_).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ReadFile(path_).value(), "precious");
}

}  // namespace
}  // namespace rollcall::rpc
