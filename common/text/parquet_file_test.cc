#include "common/text/parquet_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "common/base/philox.h"
#include "nlohmann/json.hpp"

namespace rollcall::text {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

std::vector<json> Rows(const std::string& lines) {
  std::vector<json> rows;
  size_t at = 0;
  while (at < lines.size()) {
    const size_t end = lines.find('\n', at);
    rows.push_back(json::parse(lines.substr(at, end - at)));
    at = end + 1;
  }
  return rows;
}

class ParquetFileTest : public ::testing::Test {
 protected:
  ParquetFileTest() {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~ParquetFileTest() override { fs::remove_all(folder_); }

  std::string Path(const std::string& name) const { return (folder_ / name).string(); }

  std::string WriteBytes(const std::string& bytes) const {
    const std::string path = Path("bytes.parquet");
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }

  const fs::path folder_ = fs::path(::testing::TempDir()) / "rollcall_parquet_file";
};

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Every shape that rows of training data have.
constexpr char kRows[] =
    R"({"prompt":[{"role":"user","content":"q\u0000\n\"é"},{"role":"assistant","content":null}],"label":true,"n":1,"p":0.25,"tags":["a",null,""],"deep":[[1,2],[],[3]]}
{"prompt":[],"label":null,"n":-9007199254740993,"p":2.0,"tags":null,"deep":[[]]}
{"prompt":null,"label":false,"n":null,"p":null,"tags":[],"deep":null}
{"prompt":[{"role":"user","content":"天"}],"label":true,"n":7,"p":1e300,"tags":["b"],"deep":[null,[null,4]]}
)";

TEST_F(ParquetFileTest, RowsComeBackAsTheyWereWritten) {
  const std::vector<json> expected = Rows(kRows);
  for (const char* compression : {"none", "snappy", "zstd", "gzip"}) {
    for (const uint64_t group_rows : {1, 3, 100}) {
      SCOPED_TRACE(std::string(compression) + " " + std::to_string(group_rows));
      const std::string path = Path("rows.parquet");
      ASSERT_TRUE(WriteParquet(path, kRows, group_rows, compression).ok());
      const auto file = ParquetFile::Open(path);
      ASSERT_TRUE(file.ok()) << file.status();
      EXPECT_EQ((*file)->row_groups().size(), (4 + group_rows - 1) / group_rows);
      std::vector<json> rows;
      for (size_t group = 0; group < (*file)->row_groups().size(); ++group) {
        const auto lines = (*file)->ReadRows(group, 0, (*file)->row_groups()[group].rows);
        ASSERT_TRUE(lines.ok()) << lines.status();
        for (json& row : Rows(*lines)) rows.push_back(std::move(row));
      }
      EXPECT_EQ(rows, expected);
    }
  }
}

TEST_F(ParquetFileTest, AnyRowsInAnyOrder) {
  std::string lines;
  for (int i = 0; i < 5000; ++i) {
    lines += json{{"i", i}, {"text", std::string(i % 50, 'x')}, {"list", {i, i + 1}}}.dump() + "\n";
  }
  const std::string path = Path("many.parquet");
  ASSERT_TRUE(WriteParquet(path, lines, 3000, "snappy").ok());
  const auto file = ParquetFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto first_of = [&](size_t group, uint64_t first, uint64_t count) {
    const auto text = (*file)->ReadRows(group, first, count);
    EXPECT_TRUE(text.ok()) << text.status();
    const std::vector<json> rows = Rows(text.value_or(""));
    EXPECT_EQ(rows.size(), count);
    return rows.empty() ? json() : rows[0]["list"][1];
  };
  EXPECT_EQ(first_of(0, 100, 10), 101);
  EXPECT_EQ(first_of(0, 110, 1000), 111);  // goes on
  EXPECT_EQ(first_of(0, 2999, 1), 3000);   // skips
  EXPECT_EQ(first_of(0, 5, 1), 6);         // starts over
  EXPECT_EQ(first_of(1, 1999, 1), 5000);   // another group
  EXPECT_FALSE((*file)->ReadRows(1, 1999, 2).ok());
  EXPECT_FALSE((*file)->ReadRows(2, 0, 1).ok());
  EXPECT_FALSE((*file)->ReadRows(0, ~uint64_t{0}, 2).ok());
  EXPECT_EQ(first_of(0, 0, 1), 1);  // an error leaves the file usable
}

TEST_F(ParquetFileTest, WhatCannotBeReadSaysWhy) {
  const auto open = [&](const std::string& bytes) {
    const auto file = ParquetFile::Open(WriteBytes(bytes));
    EXPECT_EQ(file.status().code(), absl::StatusCode::kDataLoss) << file.status();
    EXPECT_THAT(std::string(file.status().message()), HasSubstr("bytes.parquet: "));
    EXPECT_THAT(std::string(file.status().message()), HasSubstr("is to be written again"));
    return std::string(file.status().message());
  };
  EXPECT_THAT(open(""), HasSubstr("at least 12 bytes"));
  EXPECT_THAT(open("{\"prompt\": \"a\"}\n"), HasSubstr("does not end as a Parquet file does"));
  EXPECT_THAT(open(std::string("PAR1") + std::string("\xff\xff\0\0", 4) + "PAR1"),
              HasSubstr("longer than the file"));
  EXPECT_THAT(open(std::string("PAR1") + std::string("\0\0\0\0", 4) + "PARE"),
              HasSubstr("encrypted"));
  EXPECT_EQ(ParquetFile::Open("/nowhere/x.parquet").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ParquetFile::Open(folder_.string()).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(ParquetFileTest, ColumnsOfSeveralTypesAreNotWritten) {
  const absl::Status status =
      WriteParquet(Path("x.parquet"), "{\"a\": 1}\n{\"a\": \"b\"}\n", 1, "none");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("row 1: column \"a\" has values of several"));
  EXPECT_FALSE(WriteParquet(Path("x.parquet"), "", 1, "none").ok());
  EXPECT_FALSE(WriteParquet(Path("x.parquet"), "{\"a\": 1}", 1, "lzma").ok());
}

// A footer whose columns nest 100 000 levels deep: the library would recurse as deep.
TEST_F(ParquetFileTest, AFooterThatNestsWithoutEndIsRefused) {
  std::string footer = "\x15\x02";  // field 1, i32: version 1
  footer += "\x19\xfc";             // field 2: a list of structs, their number follows
  constexpr uint32_t kLevels = 100'000;
  for (uint32_t left = kLevels; true; left >>= 7) {
    footer += static_cast<char>((left & 0x7f) | (left > 0x7f ? 0x80 : 0));
    if (left <= 0x7f) break;
  }
  // Repetition (field 3) required, a name of one letter (4), one child (5), the end.
  for (uint32_t i = 0; i < kLevels; ++i) footer += std::string("\x35\x00\x18\x01x\x15\x02\x00", 8);
  std::string size(4, '\0');
  for (int i = 0; i < 4; ++i) size[i] = static_cast<char>(footer.size() >> (8 * i));
  const auto file = ParquetFile::Open(WriteBytes("PAR1" + footer + size + "PAR1"));
  EXPECT_THAT(std::string(file.status().message()), HasSubstr("nest deeper than 66 levels"));
}

int Rounds() {
  const char* rounds = std::getenv("ROLLCALL_FUZZ_ROUNDS");
  return rounds == nullptr ? 600 : std::atoi(rounds);
}

// Mutations of real files: each opens or is refused, each row group is read or is refused, nothing
// crashes, and memory stays bounded whatever sizes a header claims.
TEST_F(ParquetFileTest, HostileFilesAreRefusedOrRead) {
  std::vector<std::string> seeds;
  for (const char* compression : {"none", "snappy", "zstd", "gzip"}) {
    const std::string path = Path("seed.parquet");
    ASSERT_TRUE(WriteParquet(path, kRows, 3, compression).ok());
    seeds.push_back(ReadAll(path));
  }
  struct rusage before {
  }, after{};
  getrusage(RUSAGE_SELF, &before);
  PhiloxStream random(11, 3);
  int opened = 0, read = 0;
  for (int round = 0; round < Rounds(); ++round) {
    std::string bytes = seeds[random.Below(seeds.size())];
    for (uint64_t change = 1 + random.Below(4); change > 0; --change) {
      // The footer decides the most; half of the changes go there.
      const size_t half = bytes.size() / 2;
      const size_t at = random.Below(2) == 0 ? random.Below(bytes.size())
                                             : half + random.Below(bytes.size() - half);
      switch (random.Below(5)) {
        case 0:
          bytes.erase(at, random.Below(3));
          break;
        case 1:
          bytes.insert(at, 1, static_cast<char>(random.Below(256)));
          break;
        case 2:  // a large number in the protocol's encoding
          bytes.replace(at, std::min<size_t>(4, bytes.size() - at), "\xff\xff\xff\x7f");
          break;
        default:
          bytes[at] = static_cast<char>(random.Below(256));
      }
    }
    const auto file = ParquetFile::Open(WriteBytes(bytes));
    if (!file.ok()) {
      EXPECT_LT(file.status().message().size(), 1500u);
      continue;
    }
    ++opened;
    for (size_t group = 0; group < (*file)->row_groups().size(); ++group) {
      const uint64_t rows = std::min<uint64_t>((*file)->row_groups()[group].rows, 100);
      const auto lines = (*file)->ReadRows(group, 0, rows);
      EXPECT_EQ(lines.ok() || absl::IsDataLoss(lines.status()), true) << lines.status();
      if (lines.ok()) {
        ++read;
        EXPECT_EQ(static_cast<uint64_t>(std::count(lines->begin(), lines->end(), '\n')), rows);
      }
    }
  }
  getrusage(RUSAGE_SELF, &after);
  EXPECT_GT(opened, Rounds() / 10);
  EXPECT_GT(read, Rounds() / 20);
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 512 * 1024) << "KiB";
}

}  // namespace
}  // namespace rollcall::text
