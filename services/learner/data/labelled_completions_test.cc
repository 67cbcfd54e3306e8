#include "services/learner/data/labelled_completions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "services/learner/data/test_folder.h"

namespace rollcall::learner {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

class LabelledCompletionsTest : public ::testing::Test {
 protected:
  v1::DataSection Data(const std::string& lines) const {
    v1::DataSection data = DataOf(folder_.Write("labelled.jsonl", lines));
    data.set_label_column("label");
    return data;
  }
  absl::StatusOr<LabelledSet> Load(const v1::DataSection& data, uint64_t context = 0) const {
    return LoadLabelledCompletions(data, data.train(), *folder_.Tokenizer(), context);
  }
  std::string ErrorOf(const v1::DataSection& data) const {
    const auto set = Load(data);
    EXPECT_TRUE(absl::IsInvalidArgument(set.status())) << set.status();
    return std::string(set.status().message());
  }

  const TestFolder folder_;
};

constexpr char kThree[] =
    "{\"prompt\": \"1+2=\", \"completion\": \"3\", \"label\": true}\n"
    "{\"prompt\": \"a\", \"completion\": \"bcd\", \"label\": false}\n"
    "{\"prompt\": \"ef\", \"completion\": \"g\", \"label\": 1}\n";

TEST_F(LabelledCompletionsTest, ReadsCompletionsWithTheirLabels) {
  const auto set = Load(Data(kThree));
  ASSERT_TRUE(set.ok()) << set.status();
  ASSERT_EQ(set->rows.size(), 3u);
  EXPECT_THAT(set->rows[0].tokens.token_ids, ElementsAreArray(Ids("1+2=3$")));
  EXPECT_TRUE(set->rows[0].desirable);
  EXPECT_FALSE(set->rows[1].desirable);
  EXPECT_TRUE(set->rows[2].desirable);
}

TEST_F(LabelledCompletionsTest, RefusesOtherLabels) {
  for (const char* wrong : {"2", "\"true\"", "null", "[true]", "-1"}) {
    EXPECT_THAT(ErrorOf(Data(std::string(kThree) +
                             R"({"prompt": "a", "completion": "b", "label": )" + wrong + "}")),
                HasSubstr("labelled.jsonl:4: column \"label\": expected true or false"))
        << wrong;
  }
  EXPECT_THAT(ErrorOf(Data(R"({"prompt": "a", "completion": "b"})")),
              HasSubstr("labelled.jsonl:1: expected a column \"label\""));
}

TEST_F(LabelledCompletionsTest, OneClassTeachesNothing) {
  const std::string liked = R"({"prompt": "a", "completion": "b", "label": true})";
  const std::string disliked = R"({"prompt": "a", "completion": "b", "label": false})";
  EXPECT_THAT(ErrorOf(Data(liked + "\n" + liked)),
              HasSubstr("all 2 completions are desirable, and kto learns from the difference"));
  EXPECT_THAT(ErrorOf(Data(disliked)), HasSubstr("all 1 completions are undesirable"));
  EXPECT_TRUE(Load(Data(liked + "\n" + disliked)).ok());
}

TEST_F(LabelledCompletionsTest, BatchesPairEachPromptWithTheCompletionBeforeIt) {
  auto set = Load(Data(kThree));
  ASSERT_TRUE(set.ok()) << set.status();
  LabelledSource source(std::make_shared<const LabelledSet>(*std::move(set)), /*seed=*/1,
                        /*shuffle=*/false, /*completions_per_step=*/3, /*max_sequence_tokens=*/6);
  const auto batch = source.Next(1);
  ASSERT_TRUE(batch.ok()) << batch.status();
  ASSERT_EQ(batch->sequences.size(), 6u);
  EXPECT_THAT(batch->sequences[0].token_ids, ElementsAreArray(Ids("1+2=3$")));
  EXPECT_THAT(batch->sequences[1].token_ids, ElementsAreArray(Ids("1+2=g$")));
  EXPECT_THAT(batch->sequences[1].loss_mask, ElementsAre(0, 0, 0, 0, 1, 1));
  EXPECT_THAT(batch->sequences[3].token_ids, ElementsAreArray(Ids("a3$")));
  EXPECT_THAT(batch->sequences[5].token_ids, ElementsAreArray(Ids("efbcd$")));
  EXPECT_EQ(batch->sequences[0].preference, 1);
  EXPECT_EQ(batch->sequences[2].preference, 0);
  EXPECT_NEAR(batch->metrics.at("data/desirable"), 2.0 / 3, 1e-12);
  // The second batch holds the same three rows of the second epoch.
  EXPECT_EQ(source.Next(2)->sequences[5].token_ids, batch->sequences[5].token_ids);
  EXPECT_EQ(source.Next(2)->metrics.at("data/epoch"), 1);
  EXPECT_FALSE(source.Next(0).ok());
}

TEST_F(LabelledCompletionsTest, AMismatchedSequenceEndsAtTheContext) {
  const auto set = Load(Data(kThree), /*context=*/6);
  ASSERT_TRUE(set.ok()) << set.status();
  const std::vector<const LabelledCompletion*> rows = {&set->rows[1], &set->rows[0]};
  const TrainBatch batch = BatchOfLabelled(rows, 6);
  EXPECT_THAT(batch.sequences[3].token_ids, ElementsAreArray(Ids("1+2=bc")));
  EXPECT_THAT(batch.sequences[3].loss_mask, ElementsAre(0, 0, 0, 0, 1, 1));
}

TEST_F(LabelledCompletionsTest, BoundsAreThoseOfDemonstrations) {
  v1::DataSection data = Data(kThree);
  data.set_max_prompt_tokens(2);
  EXPECT_THAT(ErrorOf(data), HasSubstr("the prompt has 4 tokens"));
  data.set_on_long_prompt(v1::LONG_PROMPT_DROP);
  const auto set = Load(data);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->rows.size(), 2u);
  EXPECT_EQ(set->left_out.too_long, 1u);
}

}  // namespace
}  // namespace rollcall::learner
