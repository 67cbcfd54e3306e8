#include "services/learner/data/row_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <string>

#include "common/text/parquet_file.h"
#include "services/learner/data/demonstrations.h"
#include "services/learner/data/labelled_completions.h"
#include "services/learner/data/preferences.h"
#include "services/learner/data/prompt_source.h"
#include "services/learner/data/read_ahead.h"
#include "services/learner/data/test_folder.h"
#include "services/learner/data/utf8.h"

namespace rollcall::learner {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAreArray;

// Rows "i" of more than a block of text in all, each padded to `bytes`.
std::string Numbered(int from, int to, size_t bytes, const std::string& more = "") {
  std::string lines;
  for (int i = from; i < to; ++i) {
    const std::string padding(bytes, ' ');
    lines += "{\"prompt\": \"" + std::to_string(i) + "\", \"completion\": \"b\"" + more + padding +
             "}\n";
  }
  return lines;
}

class RowStreamTest : public ::testing::Test {
 protected:
  static std::unique_ptr<const RowStream> Open(const v1::DataSection& data, uint64_t seed = 5) {
    auto stream = RowStream::Open(data, data.train(), seed);
    EXPECT_TRUE(stream.ok()) << stream.status();
    return stream.ok() ? *std::move(stream) : nullptr;
  }

  static std::string PromptAt(const RowStream& stream, uint64_t ordinal) {
    std::string text;
    const absl::Status status = stream.Visit(
        ordinal, [&](const RowStream::Draw&, const RowPlace&, absl::StatusOr<nlohmann::json> row) {
          if (row.ok()) text = (*row)["prompt"];
          return row.status();
        });
    EXPECT_TRUE(status.ok()) << status;
    return text;
  }

  // In visiting order from `first` on.
  static std::vector<std::string> Prompts(const RowStream& stream, uint64_t first, uint64_t count) {
    std::vector<std::string> prompts;
    for (uint64_t i = first; i < first + count; ++i) prompts.push_back(PromptAt(stream, i));
    return prompts;
  }

  std::string Parquet(const std::string& name, const std::string& lines, uint64_t group_rows) {
    const std::string path = folder_.path() + "/" + name;
    EXPECT_TRUE(text::WriteParquet(path, lines, group_rows, "snappy").ok());
    return path;
  }

  const TestFolder folder_;
};

TEST_F(RowStreamTest, JsonlAndParquetVisitEveryRowOnceAnEpoch) {
  std::vector<std::string> all;
  for (int i = 0; i < 3000; ++i) all.push_back(std::to_string(i));
  const std::string lines = Numbered(0, 3000, 600);  // four blocks of JSONL
  for (const std::string& path :
       {folder_.Write("a.jsonl", "\xef\xbb\xbf\n" + lines), Parquet("a.parquet", lines, 700),
        Parquet("b.parquet", lines, 5000)}) {
    SCOPED_TRACE(path);
    v1::DataSection data = DataOf(path);
    EXPECT_EQ(Prompts(*Open(data), 0, 3000), all);
    data.set_shuffle(true);
    const auto stream = Open(data);
    const auto first = Prompts(*stream, 0, 3000), second = Prompts(*stream, 3000, 3000);
    EXPECT_THAT(first, UnorderedElementsAreArray(all));
    EXPECT_THAT(second, UnorderedElementsAreArray(all));
    EXPECT_NE(first, second);
    EXPECT_NE(first, all);
    // A resumed run asks from the middle on, in a process of its own.
    EXPECT_EQ(PromptAt(*Open(data), 4321), second[1321]);
    EXPECT_EQ(Prompts(*Open(data), 2990, 10),
              std::vector<std::string>(first.begin() + 2990, first.end()));
    EXPECT_NE(Prompts(*Open(data, 6), 0, 100), Prompts(*Open(data), 0, 100));
  }
}

TEST_F(RowStreamTest, FilesWithWeightsTakeTurns) {
  v1::DataSection data = DataOf(folder_.Write("a.jsonl", Numbered(0, 10, 0)));
  data.mutable_train(0)->set_weight(1);
  v1::DataSource* other = data.add_train();
  other->set_path(Parquet("b.parquet", Numbered(100, 200, 0), 10));
  other->set_weight(3);
  data.set_shuffle(true);
  const auto prompts = Prompts(*Open(data), 0, 80);
  EXPECT_EQ(std::count_if(prompts.begin(), prompts.end(), [](auto& p) { return p.size() == 1; }),
            20);
  EXPECT_EQ(std::set(prompts.begin(), prompts.end()).size(), 70u);
  other->clear_weight();
  EXPECT_THAT(std::string(RowStream::Open(data, data.train(), 1).status().message()),
              HasSubstr("expected a weight"));
}

TEST_F(RowStreamTest, APassOverTheFileFindsBrokenLinesBeforeTraining) {
  for (const char* bad : {"{\"prompt\": \"caf\xe9\"}", "{\"prompt\": \"a\"", "[1]",
                          "{\"prompt\": \"\xed\xa0\x80\"}"}) {
    v1::DataSection data =
        DataOf(folder_.Write("a.jsonl", Numbered(0, 3, 0) + bad + "\n" + Numbered(4, 6, 0)));
    const auto stream = RowStream::Open(data, data.train(), 1);
    EXPECT_THAT(std::string(stream.status().message()), HasSubstr("a.jsonl:4: ")) << bad;
    data.set_on_bad_row(v1::BAD_ROW_SKIP);
    EXPECT_EQ(Open(data)->rows(), 6u);
  }
  v1::DataSection empty = DataOf(folder_.Write("a.jsonl", "\n \n"));
  EXPECT_THAT(std::string(RowStream::Open(empty, empty.train(), 1).status().message()),
              HasSubstr("a.jsonl: expected at least one row"));
  EXPECT_EQ(RowStream::Open(DataOf("/nowhere/x"), DataOf("/nowhere/x").train(), 1).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(RowStreamTest, AFileThatShrinksEndsTheRun) {
  const v1::DataSection data = DataOf(folder_.Write("a.jsonl", Numbered(0, 10, 0)));
  const auto stream = Open(data);
  folder_.Write("a.jsonl", Numbered(0, 5, 0));
  const absl::Status status = stream->Visit(
      0, [](const RowStream::Draw&, const RowPlace&, auto) { return absl::OkStatus(); });
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("has changed since the run opened it"));
}

// Both kinds of memory teach the same rows, each once.
TEST_F(RowStreamTest, DemonstrationsAreTheSameStreamedOrNot) {
  v1::DataSection data = DataOf(folder_.Write("a.jsonl", Numbered(0, 40, 0)));
  const auto tokenizer = folder_.Tokenizer();
  const auto ids = [&](uint64_t memory_bytes) {
    const auto examples = OpenDemonstrations(data, data.train(), *tokenizer, 64, 5, memory_bytes);
    EXPECT_TRUE(examples.ok()) << examples.status();
    EXPECT_EQ((*examples)->streamed(), memory_bytes == 0);
    DemonstrationSource source(*examples, 10);
    std::vector<std::vector<uint32_t>> rows;
    for (uint64_t step = 1; step <= 4; ++step) {
      const auto batch = source.Next(step);
      EXPECT_TRUE(batch.ok()) << batch.status();
      EXPECT_EQ(batch->metrics.contains("data/skipped"), memory_bytes == 0);
      for (const auto& sequence : batch->sequences) rows.push_back(sequence.token_ids);
    }
    return rows;
  };
  EXPECT_EQ(ids(0), ids(kMemoryBytes));
  data.set_shuffle(true);
  EXPECT_THAT(ids(0), UnorderedElementsAreArray(ids(kMemoryBytes)));
}

TEST_F(RowStreamTest, RowsThatAreLeftOutAreReplacedAndCounted) {
  std::string lines = "{\"prompt\": \"a\"}\n" + Numbered(1, 3, 0) + "{\"prompt\": \"" +
                      std::string(70, 'c') + "\", \"completion\": \"d\"}\n" + Numbered(4, 6, 0);
  v1::DataSection data = DataOf(folder_.Write("a.jsonl", lines));
  data.set_on_bad_row(v1::BAD_ROW_SKIP);
  data.set_on_long_prompt(v1::LONG_PROMPT_DROP);
  const auto tokenizer = folder_.Tokenizer();
  const auto examples = OpenDemonstrations(data, data.train(), *tokenizer, 64, 5, 0);
  ASSERT_TRUE(examples.ok()) << examples.status();
  DemonstrationSource source(*examples, 3), resumed(*examples, 3);
  const auto first_ids = [](const TrainBatch& batch) {
    std::vector<uint32_t> ids;
    for (const auto& sequence : batch.sequences) ids.push_back(sequence.token_ids[0]);
    return ids;
  };
  auto batch = source.Next(1);
  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_THAT(first_ids(*batch), ElementsAre(Id('1'), Id('1'), Id('2')));
  EXPECT_EQ(batch->metrics.at("data/skipped"), 1);
  EXPECT_EQ(batch->metrics.at("data/dropped"), 0);
  batch = source.Next(2);
  EXPECT_THAT(first_ids(*batch), ElementsAre(Id('4'), Id('4'), Id('5')));
  EXPECT_EQ(batch->metrics.at("data/dropped"), 1);
  EXPECT_EQ(first_ids(*resumed.Next(2)), first_ids(*batch));
  EXPECT_EQ((*examples)->left_out().unreadable, 1u);

  // Where the configuration does not say so, the first one ends the run.
  data.set_on_bad_row(v1::BAD_ROW_FAIL);
  const auto strict = OpenDemonstrations(data, data.train(), *tokenizer, 64, 5, 0);
  ASSERT_TRUE(strict.ok()) << strict.status();
  EXPECT_THAT(std::string(DemonstrationSource(*strict, 1).Next(1).status().message()),
              HasSubstr("a.jsonl:1: expected a column \"completion\""));

  data = DataOf(folder_.Write("b.jsonl", "{\"prompt\": \"a\"}\n"));
  data.set_on_bad_row(v1::BAD_ROW_SKIP);
  const auto none = OpenDemonstrations(data, data.train(), *tokenizer, 64, 5, 0);
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_THAT(std::string(DemonstrationSource(*none, 1).Next(1).status().message()),
              HasSubstr("1000 rows one after another cannot be used"));
}

TEST_F(RowStreamTest, PairsLabelsAndPromptsAreStreamedToo) {
  const std::string rows = Numbered(
      0, 6, 0, ", \"chosen\": \"1\", \"rejected\": \"2\", \"label\": true, \"answer\": \"x\"");
  v1::DataSection data = DataOf(Parquet("a.parquet", rows, 2));
  data.set_chosen_column("chosen");
  data.set_rejected_column("rejected");
  data.set_label_column("label");
  const auto tokenizer = folder_.Tokenizer();
  const auto pairs = OpenPreferences(data, data.train(), *tokenizer, 64, 5, 0);
  ASSERT_TRUE(pairs.ok()) << pairs.status();
  EXPECT_EQ(PreferenceSource(*pairs, 2).Next(2)->sequences[0].token_ids[0], Id('2'));
  const auto labelled = OpenLabelledCompletions(data, data.train(), *tokenizer, 64, 5, 0);
  ASSERT_TRUE(labelled.ok()) << labelled.status();
  EXPECT_EQ(LabelledSource(*labelled, 2, 64).Next(2)->metrics.at("data/desirable"), 1);
  const auto prompts = OpenPrompts(data, data.train(), *tokenizer, 5, 0);
  ASSERT_TRUE(prompts.ok()) << prompts.status();
  const PromptSource source(*prompts);
  const auto prompt = source.PromptAt(9);
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(prompt->text(), "3");
  EXPECT_EQ(prompt->epoch(), 1u);
  EXPECT_EQ(prompt->columns().fields().at("answer").string_value(), "x");
  EXPECT_EQ(source.CursorAt(9).offset(), 3u);
}

TEST_F(RowStreamTest, ErrorsInParquetNameTheRow) {
  v1::DataSection data = DataOf(
      Parquet("a.parquet", Numbered(0, 5, 0) + "{\"prompt\": \"a\", \"completion\": \"\"}\n", 4));
  const auto tokenizer = folder_.Tokenizer();
  for (const uint64_t memory_bytes : {uint64_t{0}, kMemoryBytes}) {
    const auto examples = OpenDemonstrations(data, data.train(), *tokenizer, 64, 5, memory_bytes);
    const absl::Status status =
        examples.ok() ? DemonstrationSource(*examples, 6).Next(1).status() : examples.status();
    EXPECT_THAT(
        std::string(status.message()),
        HasSubstr("a.parquet: row 6 (in row group 1): column \"completion\": expected an "));
  }
  std::fstream file(folder_.path() + "/a.parquet", std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(30);
  file << std::string(40, '\xff');
  file.close();
  const absl::Status status = OpenDemonstrations(data, data.train(), *tokenizer, 64, 5).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("a.parquet: row group 0, "));
  EXPECT_THAT(std::string(status.message()), HasSubstr("column \""));
  EXPECT_THAT(std::string(status.message()), HasSubstr("is to be written again"));
}

class CountingSource final : public BatchSource {
 public:
  absl::StatusOr<TrainBatch> Next(uint64_t step) override {
    if (step == 4) return absl::DataLossError("the fourth");
    TrainBatch batch;
    batch.metrics["step"] = static_cast<double>(step);
    return batch;
  }
};

TEST(ReadAheadSource, GivesTheBatchThatIsAskedFor) {
  ReadAheadSource source(std::make_unique<CountingSource>());
  for (const uint64_t step : {1, 2, 7, 8, 3}) {
    EXPECT_EQ(source.Next(step)->metrics.at("step"), static_cast<double>(step));
  }
  EXPECT_EQ(source.Next(4).status().message(), "the fourth");
  EXPECT_EQ(source.Next(5)->metrics.at("step"), 5);
}

TEST(IsPlainUtf8, FollowsUnicodesTable) {
  for (const char* good : {"", "a", "12345678", "caf\xc3\xa9 caf\xc3\xa9", "\xe0\xa0\x80",
                           "\xed\x9f\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_TRUE(IsPlainUtf8(good)) << good;
  }
  for (const char* bad :
       {"\x80", "abcdefgh\xff", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
        "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xe2\x82", "abcdefg\xc3"}) {
    EXPECT_FALSE(IsPlainUtf8(bad)) << bad;
  }
  EXPECT_FALSE(IsPlainUtf8(std::string_view("abcd\0efghi", 10)));
  EXPECT_FALSE(IsPlainUtf8(std::string_view("abcdefgh\0", 9)));
}

}  // namespace
}  // namespace rollcall::learner
