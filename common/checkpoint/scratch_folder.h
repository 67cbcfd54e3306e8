#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <string>

namespace rollcall::checkpoint {

// A folder of a test's own, removed with everything in it.
class ScratchFolder {
 public:
  ScratchFolder() : path_(::testing::TempDir() + "/checkpoint.XXXXXX") {
    EXPECT_NE(mkdtemp(path_.data()), nullptr);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace rollcall::checkpoint
