#include "common/base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <thread>
#include <vector>

namespace rollcall {
namespace {

class FileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "/rollcall_file_test.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  int Entries() const {
    int count = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder_)) ++count;
    return count;
  }

  std::string folder_;
};

TEST_F(FileTest, RoundTripsBytes) {
  const std::string path = folder_ + "/a";
  std::string bytes(300000, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7);
  ASSERT_TRUE(WriteFileAtomically(path, bytes).ok());
  EXPECT_EQ(ReadFile(path).value(), bytes);
  ASSERT_TRUE(WriteFileAtomically(path, "").ok());
  EXPECT_EQ(ReadFile(path).value(), "");
  EXPECT_EQ(Entries(), 1);
}

TEST_F(FileTest, ReadsFilesOfUnknownSize) {
  EXPECT_FALSE(ReadFile("/proc/self/status").value().empty());
}

TEST_F(FileTest, ErrorsNameThePath) {
  const absl::Status missing = ReadFile(folder_ + "/none").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(missing.message().find(folder_ + "/none"), absl::string_view::npos);
  EXPECT_EQ(ReadFile(folder_).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(WriteFileAtomically(folder_ + "/none/a", "x").code(), absl::StatusCode::kNotFound);
}

TEST_F(FileTest, FailedWriteLeavesTheOldFileAndNoTemporary) {
  const std::string path = folder_ + "/target";
  ASSERT_TRUE(MakeDirectories(path + "/child").ok());  // rename() over a full folder fails
  EXPECT_FALSE(WriteFileAtomically(path, "x").ok());
  EXPECT_EQ(Entries(), 1);
  EXPECT_TRUE(std::filesystem::is_directory(path + "/child"));
}

TEST_F(FileTest, ReadersNeverSeeAMixture) {
  const std::string path = folder_ + "/shared";
  const std::string old_bytes(100000, 'a');
  const std::string new_bytes(50000, 'b');
  ASSERT_TRUE(WriteFileAtomically(path, old_bytes).ok());
  std::vector<std::thread> writers;
  for (int writer = 0; writer < 2; ++writer) {
    writers.emplace_back([&] {
      for (int i = 0; i < 20; ++i) {
        EXPECT_TRUE(WriteFileAtomically(path, i % 2 == 0 ? new_bytes : old_bytes).ok());
      }
    });
  }
  for (int i = 0; i < 100; ++i) {
    const std::string read = ReadFile(path).value();
    EXPECT_TRUE(read == old_bytes || read == new_bytes) << read.size();
  }
  for (std::thread& writer : writers) writer.join();
}

TEST_F(FileTest, MakesAndRemovesTrees) {
  const std::string deep = folder_ + "/x/y/z";
  ASSERT_TRUE(MakeDirectories(deep).ok());
  ASSERT_TRUE(MakeDirectories(deep).ok());
  ASSERT_TRUE(WriteFileAtomically(deep + "/f", "1").ok());
  EXPECT_FALSE(MakeDirectories(deep + "/f").ok());
  ASSERT_TRUE(WriteFileAtomically(folder_ + "/kept", "1").ok());
  ASSERT_EQ(::symlink((folder_ + "/kept").c_str(), (deep + "/link").c_str()), 0);
  ASSERT_TRUE(RemoveTree(folder_ + "/x").ok());
  ASSERT_TRUE(RemoveTree(folder_ + "/x").ok());
  EXPECT_EQ(Entries(), 1);
}

}  // namespace
}  // namespace rollcall
