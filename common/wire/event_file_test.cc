#include "common/wire/event_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "common/base/file.h"

namespace rollcall {
namespace {

using testing::HasSubstr;

// RFC 3720, appendix B.4, and the check value of the algorithm's catalogue entry.
TEST(Crc32cTest, PublishedValues) {
  EXPECT_EQ(Crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62A8AB43u);
  EXPECT_EQ(Crc32c(""), 0u);
}

template <typename T>
T At(const std::string& bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

// Payloads of a TFRecord file, whose lengths and checksums are checked on the way.
std::vector<std::string> Records(const std::string& bytes) {
  std::vector<std::string> records;
  auto mask = [](uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u; };
  for (size_t offset = 0; offset < bytes.size();) {
    const auto length = At<uint64_t>(bytes, offset);
    EXPECT_EQ(At<uint32_t>(bytes, offset + 8), mask(Crc32c(bytes.substr(offset, 8))));
    records.push_back(bytes.substr(offset + 12, length));
    EXPECT_EQ(At<uint32_t>(bytes, offset + 12 + length), mask(Crc32c(records.back())));
    offset += 12 + length + 4;
  }
  return records;
}

class EventFileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = "/tmp/rollcall_event_file_test.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string folder_;
};

// The bytes are worked out by hand from event.proto: wall_time 1.5 (field 1, double), step 300
// (field 2, varint AC 02), summary (field 5) of one value {tag "a/b", simple_value 0.25}.
TEST_F(EventFileTest, EventsAreTensorBoards) {
  auto writer = EventFileWriter::Create(folder_ + "/tensorboard", absl::FromUnixSeconds(7)).value();
  EXPECT_THAT(writer->path(), HasSubstr("/events.out.tfevents.0000000007."));
  ASSERT_TRUE(writer->AppendStart(300, absl::FromUnixMillis(1500)).ok());
  ASSERT_TRUE(writer->AppendScalars(300, absl::FromUnixMillis(1500), {{"a/b", 0.25}}).ok());
  const std::vector<std::string> records = Records(ReadFile(writer->path()).value());
  ASSERT_EQ(records.size(), 3u);
  EXPECT_THAT(records[0], HasSubstr(std::string("\x1a\x0d") + "brain.Event:2"));
  const std::string head("\x09\0\0\0\0\0\0\xf8\x3f\x10\xac\x02", 12);
  EXPECT_EQ(records[1], head + std::string("\x3a\x02\x08\x01", 4));
  EXPECT_EQ(records[2], head + std::string("\x2a\x0c\x0a\x0a\x0a\x03"
                                           "a/b\x15\0\0\x80\x3e",
                                           14));
}

TEST_F(EventFileTest, AFolderThatCannotBeMadeIsAnError) {
  ASSERT_TRUE(WriteFileAtomically(folder_ + "/file", "x").ok());
  EXPECT_FALSE(EventFileWriter::Create(folder_ + "/file/below", absl::UnixEpoch()).ok());
}

}  // namespace
}  // namespace rollcall
