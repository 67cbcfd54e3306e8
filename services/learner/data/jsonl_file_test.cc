#include "services/learner/data/jsonl_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <fstream>
#include <string>
#include <vector>

#include "services/learner/data/test_folder.h"

namespace rollcall::learner {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// One text per line: the row, or its error without the path.
std::vector<std::string> Lines(const std::string& path) {
  std::vector<std::string> lines;
  const absl::Status status =
      ForEachJsonRow(path, [&](const RowPlace& place, absl::StatusOr<nlohmann::json> row) {
        if (row.ok()) {
          lines.push_back(std::to_string(place.line) + " " + row->dump());
        } else {
          EXPECT_EQ(row.status().code(), absl::StatusCode::kInvalidArgument);
          lines.push_back(std::string(row.status().message()).substr(path.size() + 1));
        }
        return absl::OkStatus();
      });
  EXPECT_TRUE(status.ok()) << status;
  return lines;
}

absl::Status StatusOf(const std::string& path) {
  return ForEachJsonRow(path, [](const RowPlace&, const absl::StatusOr<nlohmann::json>& row) {
    return row.status();
  });
}

TEST(ForEachJsonRow, EveryKindOfBrokenLineIsNamedAndPassed) {
  const TestFolder folder;
  std::string text = "\xef\xbb\xbf{\"a\": 1}\r\n\n";
  text += std::string("{\"a\": \"x\0y\"}\n", 13);
  text += "{\"a\": \"caf\xe9\"}\n";
  text += "{\"a\": \"\xed\xa0\x80\"}\n";
  text += "{\"a\": 1e999}\n";
  text += "{\"a\": " + std::string(100'000, '[') + "\n";
  text += "{\"a\": \"\\u0000\"}\n";
  text += "{\"a\": \"\\ud800\"}\n";
  text += "{\"a\": 2}";
  const std::vector<std::string> lines = Lines(folder.Write("x.jsonl", text));
  EXPECT_THAT(
      lines,
      ElementsAre("1 {\"a\":1}", HasSubstr("3: byte 9: expected text, got a NUL byte"),
                  HasSubstr("4: byte 12: not valid UTF-8"), HasSubstr("5: byte 9: not valid UTF-8"),
                  HasSubstr("6: expected numbers within the range of float64"),
                  "7: expected at most 66 levels of nesting", "8 {\"a\":\"\\u0000\"}",
                  HasSubstr("9: byte 14: not valid"), "10 {\"a\":2}"));
}

TEST(ForEachJsonRow, ALineOf100MegabytesCostsNoMemory) {
  const TestFolder folder;
  const std::string path = folder.Write("x.jsonl", "{\"a\": 1}\n{\"a\": \"");
  {
    std::ofstream out(path, std::ios::binary | std::ios::app);
    const std::string block(1'000'000, 'x');
    for (int i = 0; i < 100; ++i) out << block;
    out << "\"}\n{\"a\": 3}\n";
  }
  struct rusage before {
  }, after{};
  getrusage(RUSAGE_SELF, &before);
  EXPECT_THAT(Lines(path),
              ElementsAre("1 {\"a\":1}",
                          HasSubstr("2: expected a line of at most 16 MiB, got a longer one"),
                          "3 {\"a\":3}"));
  getrusage(RUSAGE_SELF, &after);
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 64 * 1024) << "KiB";
}

TEST(ForEachJsonRow, OtherFormatsAreNamed) {
  const TestFolder folder;
  const auto message = [&](const std::string& text) {
    return std::string(StatusOf(folder.Write("x", text)).message());
  };
  EXPECT_THAT(message(std::string("\xff\xfe{\0", 4)),
              HasSubstr("in UTF-8, got UTF-16 text: convert it"));
  EXPECT_THAT(message(std::string("\xfe\xff\0{", 4)), HasSubstr("UTF-16 text"));
  EXPECT_THAT(message("PAR1xxxx"), HasSubstr("got a Parquet file: let its name end in"));
  EXPECT_THAT(message("\x1f\x8b\x08"), HasSubstr("got a gzip file: unpack it (gunzip)"));
  EXPECT_EQ(StatusOf(::testing::TempDir()).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(StatusOf("/nowhere/x").code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(StatusOf(folder.Write("empty", "")).ok());
}

}  // namespace
}  // namespace rollcall::learner
