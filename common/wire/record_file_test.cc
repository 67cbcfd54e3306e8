#include "common/wire/record_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "common/base/file.h"
#include "common/base/philox.h"
#include "common/wire/little_endian.h"

namespace rollcall::wire {
namespace {

using testing::ElementsAreArray;
using testing::HasSubstr;

class RecordFileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "/rollcall_record_test.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    path_ = folder_ + "/records";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Rewrites the file by plain means: these tests damage thousands of versions of it.
  void Write(std::string_view bytes) const {
    FILE* file = std::fopen(path_.c_str(), "wb");
    ASSERT_NE(file, nullptr);
    ASSERT_EQ(std::fwrite(bytes.data(), 1, bytes.size(), file), bytes.size());
    ASSERT_EQ(std::fclose(file), 0);
  }

  // The file that holds `records`, and in `ends` where each ends.
  std::string Encode(const std::vector<std::string>& records, std::vector<size_t>* ends) const {
    std::filesystem::remove(path_);
    auto writer = RecordWriter::Open(path_).value();
    for (const std::string& record : records) {
      EXPECT_TRUE(writer->Append(record).ok());
      if (ends != nullptr) ends->push_back(writer->size());
    }
    return ReadFile(path_).value();
  }

  struct Contents {
    std::vector<std::string> records;
    std::optional<uint64_t> torn_offset;
    absl::Status status;
  };
  Contents ReadAll() const {
    Contents contents;
    auto reader = RecordReader::Open(path_).value();
    while (true) {
      absl::StatusOr<std::optional<std::string>> next = reader->Next();
      if (!next.ok()) {
        contents.status = next.status();
        return contents;
      }
      if (!next->has_value()) break;
      contents.records.push_back(**std::move(next));
    }
    contents.torn_offset = reader->torn_offset();
    return contents;
  }

  std::string folder_;
  std::string path_;
};

const std::vector<std::string>& Records() {
  static const auto* const records = new std::vector<std::string>{
      "first", std::string("\0\0\0\0", 4), std::string(40, 'x'), "z", "the last record"};
  return *records;
}

TEST_F(RecordFileTest, RoundTripsAndHasTheDocumentedLayout) {
  const std::string bytes = Encode(Records(), nullptr);
  // Length 5, then the CRC-32 of "first" (as Python's zlib.crc32 gives it), then the payload.
  EXPECT_EQ(LoadLittleEndian<uint32_t>(bytes), 5u);
  EXPECT_EQ(LoadLittleEndian<uint32_t>(std::string_view(bytes).substr(4)), 0x9271ee57u);
  EXPECT_EQ(bytes.substr(8, 5), "first");
  const Contents contents = ReadAll();
  EXPECT_TRUE(contents.status.ok());
  EXPECT_THAT(contents.records, ElementsAreArray(Records()));
  EXPECT_EQ(contents.torn_offset, std::nullopt);
}

TEST_F(RecordFileTest, ReopeningAppendsAfterWhatIsThere) {
  Encode({"a", "bb"}, nullptr);
  auto writer = RecordWriter::Open(path_).value();
  EXPECT_EQ(writer->records_at_open(), 2u);
  EXPECT_EQ(writer->cut_bytes(), 0u);
  EXPECT_TRUE(writer->Append("ccc").ok());
  EXPECT_TRUE(writer->Sync().ok());
  EXPECT_THAT(ReadAll().records, testing::ElementsAre("a", "bb", "ccc"));
}

TEST_F(RecordFileTest, EveryTruncationKeepsTheWholeRecordsAndIsCut) {
  std::vector<size_t> ends = {0};
  const std::string bytes = Encode(Records(), &ends);
  for (size_t size = 0; size <= bytes.size(); ++size) {
    SCOPED_TRACE(size);
    Write(bytes.substr(0, size));
    size_t whole = 0;
    while (whole + 1 < ends.size() && ends[whole + 1] <= size) ++whole;
    const size_t torn = size - ends[whole];
    const Contents contents = ReadAll();
    ASSERT_TRUE(contents.status.ok()) << contents.status;
    ASSERT_EQ(contents.records.size(), whole);
    ASSERT_EQ(contents.torn_offset, torn > 0 ? std::optional<uint64_t>(ends[whole]) : std::nullopt);
    {
      auto writer = RecordWriter::Open(path_).value();
      ASSERT_EQ(writer->cut_bytes(), torn);
      ASSERT_EQ(writer->records_at_open(), whole);
      ASSERT_TRUE(writer->Append("appended").ok());
    }
    std::vector<std::string> expected(Records().begin(), Records().begin() + whole);
    expected.push_back("appended");
    ASSERT_THAT(ReadAll().records, ElementsAreArray(expected));
  }
}

TEST_F(RecordFileTest, EveryBitFlipIsFoundAndOnlyTheLastRecordsIsATornTail) {
  std::vector<size_t> ends = {0};
  const std::string bytes = Encode(Records(), &ends);
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    SCOPED_TRACE(bit);
    std::string damaged = bytes;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    Write(damaged);
    size_t record = 0;
    while (ends[record + 1] <= bit / 8) ++record;
    const Contents contents = ReadAll();
    ASSERT_THAT(contents.records, ElementsAreArray(Records().begin(), Records().begin() + record));
    absl::StatusOr<std::unique_ptr<RecordWriter>> writer = RecordWriter::Open(path_);
    if (record + 1 == Records().size()) {
      ASSERT_EQ(contents.torn_offset, ends[record]);
      ASSERT_TRUE(writer.ok());
    } else {
      ASSERT_EQ(contents.status.code(), absl::StatusCode::kDataLoss);
      ASSERT_EQ(writer.status().code(), absl::StatusCode::kDataLoss);
      ASSERT_EQ(ReadFile(path_).value(), damaged);  // nothing was cut
    }
  }
}

TEST_F(RecordFileTest, ZeroTailIsTorn) {
  const std::string bytes = Encode({"a", "b"}, nullptr);
  Write(bytes + std::string(4096, '\0'));
  EXPECT_EQ(ReadAll().torn_offset, bytes.size());
  EXPECT_EQ(RecordWriter::Open(path_).value()->cut_bytes(), 4096u);
  EXPECT_EQ(ReadFile(path_).value(), bytes);
}

TEST_F(RecordFileTest, RandomBytesNeverReadAsRecords) {
  PhiloxStream random(1, 0);
  for (int round = 0; round < 200; ++round) {
    std::string bytes(random.Below(2000), '\0');
    for (char& byte : bytes) byte = static_cast<char>(random.Below(256));
    Write(bytes);
    const Contents contents = ReadAll();
    EXPECT_TRUE(contents.status.ok());
    EXPECT_TRUE(contents.records.empty());
  }
}

TEST_F(RecordFileTest, RefusesEmptyAndOversizedPayloads) {
  auto writer = RecordWriter::Open(path_).value();
  EXPECT_EQ(writer->Append("").code(), absl::StatusCode::kInvalidArgument);
  const std::string largest(kMaxRecordBytes, 'm');
  EXPECT_EQ(writer->Append(largest + "m").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(writer->Append(largest).ok());
  EXPECT_EQ(ReadAll().records.at(0), largest);
}

TEST_F(RecordFileTest, DamageOfTheLargestRecordIsStillToldFromATornTail) {
  std::string bytes =
      Encode({std::string(kMaxRecordBytes, 'm'), std::string(kMaxRecordBytes, 'n')}, nullptr);
  bytes[100] = 'x';
  Write(bytes);
  EXPECT_EQ(ReadAll().status.code(), absl::StatusCode::kDataLoss);
}

// Every offset of this tail looks like a large record: the search gives up within its budget.
TEST_F(RecordFileTest, HostileTailEndsInBoundedTime) {
  Write(std::string(size_t{40} << 20, '\x00').replace(0, 4, "\xff\xff\xff\xff"));
  EXPECT_EQ(ReadAll().torn_offset, 0u);
  std::string hostile(size_t{34} << 20, '\0');
  for (size_t i = 2; i < hostile.size(); i += 3) hostile[i] = '\x40';
  Write(hostile);
  const Contents contents = ReadAll();
  EXPECT_TRUE(contents.records.empty());
  EXPECT_EQ(contents.torn_offset, 0u);
}

TEST_F(RecordFileTest, SecondWriterIsRefused) {
  auto writer = RecordWriter::Open(path_).value();
  const absl::Status second = RecordWriter::Open(path_).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(second.message(), HasSubstr(path_));
  writer.reset();
  EXPECT_TRUE(RecordWriter::Open(path_).ok());
}

TEST_F(RecordFileTest, ReaderFollowsALiveWriter) {
  constexpr int kRecords = 3000;
  auto writer = RecordWriter::Open(path_).value();
  auto reader = RecordReader::Open(path_).value();
  std::thread appending([&] {
    for (int i = 0; i < kRecords; ++i) {
      EXPECT_TRUE(writer->Append(std::to_string(i) + std::string(i % 9000, 'p')).ok());
    }
  });
  int read = 0;
  while (read < kRecords) {
    absl::StatusOr<std::optional<std::string>> next = reader->Next();
    if (!next.ok()) ADD_FAILURE() << next.status();
    if (!next.ok()) break;
    if (!next->has_value()) continue;
    EXPECT_TRUE((*next)->starts_with(std::to_string(read)));
    ++read;
  }
  appending.join();
  EXPECT_EQ(read, kRecords);
}

// A full disk, played by the process's own file size limit in a child: the failed append leaves no
// trace.
TEST_F(RecordFileTest, FailedAppendIsUndone) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    absl::StatusOr<std::unique_ptr<RecordWriter>> writer = RecordWriter::Open(path_);
    if (!writer.ok() || !(*writer)->Append("kept").ok()) ::_exit(1);
    const rlimit limit = {.rlim_cur = 1000, .rlim_max = 1000};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(2);
    if ((*writer)->Append(std::string(5000, 'x')).ok()) ::_exit(3);
    if (!(*writer)->Append("also kept").ok()) ::_exit(4);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  ASSERT_EQ(WEXITSTATUS(status), 0);
  const Contents contents = ReadAll();
  EXPECT_THAT(contents.records, testing::ElementsAre("kept", "also kept"));
  EXPECT_EQ(contents.torn_offset, std::nullopt);
}

TEST_F(RecordFileTest, MissingFileIsNotFound) {
  EXPECT_EQ(RecordReader::Open(path_).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace rollcall::wire
