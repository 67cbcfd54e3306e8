#include "services/learner/data/preferences.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "services/learner/data/test_folder.h"

namespace rollcall::learner {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

class PreferencesTest : public ::testing::Test {
 protected:
  v1::DataSection Data(const std::string& lines) const {
    v1::DataSection data = DataOf(folder_.Write("pairs.jsonl", lines));
    data.set_chosen_column("chosen");
    data.set_rejected_column("rejected");
    return data;
  }
  absl::StatusOr<PreferenceSet> Load(const v1::DataSection& data, uint64_t context = 0,
                                     const std::string& chat_template = "") const {
    return LoadPreferences(data, data.train(), *folder_.Tokenizer(chat_template), context);
  }
  std::string ErrorOf(const v1::DataSection& data) const {
    const auto set = Load(data);
    EXPECT_TRUE(absl::IsInvalidArgument(set.status())) << set.status();
    return std::string(set.status().message());
  }

  const TestFolder folder_;
};

constexpr char kTwo[] =
    "{\"prompt\": \"1+2=\", \"chosen\": \"3\", \"rejected\": \"12\", \"by\": 0.5, \"p\": 1}\n"
    "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\", \"by\": 2, \"p\": 1}\n";

TEST_F(PreferencesTest, ReadsBothCompletionsOfAPrompt) {
  v1::DataSection data = Data(kTwo);
  auto set = Load(data);
  ASSERT_TRUE(set.ok()) << set.status();
  ASSERT_EQ(set->pairs.size(), 2u);
  EXPECT_THAT(set->pairs[0].chosen.token_ids, ElementsAreArray(Ids("1+2=3$")));
  EXPECT_THAT(set->pairs[0].rejected.token_ids, ElementsAreArray(Ids("1+2=12$")));
  EXPECT_EQ(set->pairs[0].margin, 0);
  EXPECT_EQ(set->pairs[0].preference, 1);
  data.set_margin_column("by");
  data.set_preference_column("p");
  set = Load(data);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->pairs[1].margin, 2);
  EXPECT_EQ(set->pairs[1].preference, 1);
}

TEST_F(PreferencesTest, ReadsChats) {
  const auto set = Load(Data(R"({"prompt": [{"role": "user", "content": "a"}], "chosen": "b", )"
                             R"("rejected": [{"role": "assistant", "content": "c"}]})"),
                        0, "{% for m in messages %}{{ m.content }}:{% endfor %}");
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_THAT(set->pairs[0].chosen.token_ids, ElementsAreArray(Ids("a:b:")));
  EXPECT_THAT(set->pairs[0].rejected.token_ids, ElementsAreArray(Ids("a:c:")));
}

TEST_F(PreferencesTest, RefusesRowsThatAreNoPairs) {
  EXPECT_THAT(ErrorOf(Data(R"({"prompt": "a", "chosen": "b"})")),
              HasSubstr("pairs.jsonl:1: expected a column \"rejected\""));
  EXPECT_THAT(ErrorOf(Data(R"({"prompt": "a", "chosen": 3, "rejected": "c"})")),
              HasSubstr("\"chosen\""));
  v1::DataSection data = Data(kTwo);
  data.set_margin_column("missing");
  EXPECT_THAT(ErrorOf(data), HasSubstr("\"missing\""));
}

TEST_F(PreferencesTest, ASoftLabelPutsTheLikelierCompletionFirst) {
  v1::DataSection data = Data(
      "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\", \"p\": 0.75}\n"
      "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\", \"p\": 0.25}\n"
      "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\", \"p\": 1}\n");
  EXPECT_EQ(Load(data)->pairs[1].preference, 1);  // the column is not asked for
  data.set_preference_column("p");
  const auto set = Load(data);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->pairs[0].preference, 0.75);
  EXPECT_THAT(set->pairs[0].chosen.token_ids, ElementsAreArray(Ids("ab$")));
  EXPECT_EQ(set->pairs[1].preference, 0.75);
  EXPECT_THAT(set->pairs[1].chosen.token_ids, ElementsAreArray(Ids("ac$")));
  EXPECT_EQ(set->pairs[2].preference, 1);
  const TrainBatch batch = BatchOfPairs({&set->pairs[1]});
  EXPECT_EQ(batch.sequences[0].preference, 0.75);
  for (const char* wrong : {"1.5", "-0.1", "null", "\"0.5\""}) {
    v1::DataSection bad =
        Data(R"({"prompt": "a", "chosen": "b", "rejected": "c", "p": )" + std::string(wrong) + "}");
    bad.set_preference_column("p");
    EXPECT_THAT(ErrorOf(bad), HasSubstr("pairs.jsonl:1: column \"p\": expected a probability"));
  }
}

TEST_F(PreferencesTest, EqualCompletionsPreferNothing) {
  const std::string rows =
      std::string(kTwo) + "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"b\"}\n";
  v1::DataSection data = Data(rows);
  EXPECT_THAT(ErrorOf(data),
              HasSubstr("pairs.jsonl:3: column \"rejected\": expected another completion"));
  data.set_on_bad_row(v1::BAD_ROW_SKIP);
  const auto set = Load(data);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->pairs.size(), 2u);
  EXPECT_EQ(set->left_out.unreadable, 1u);
}

TEST_F(PreferencesTest, BoundsHoldForBothAndTruncatingKeepsThePromptsAlike) {
  v1::DataSection data = Data(kTwo);
  data.set_max_prompt_tokens(2);
  EXPECT_THAT(ErrorOf(data), HasSubstr("the prompt has 4 tokens"));
  data.set_on_long_prompt(v1::LONG_PROMPT_TRUNCATE);
  auto set = Load(data, /*context=*/4);  // "12$" leaves room for one token of the prompt
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_THAT(set->pairs[0].chosen.token_ids, ElementsAreArray(Ids("=3$")));
  EXPECT_THAT(set->pairs[0].rejected.token_ids, ElementsAreArray(Ids("=12$")));
  EXPECT_EQ(set->left_out.truncated, 1u);
  data.set_on_long_prompt(v1::LONG_PROMPT_DROP);
  set = Load(data);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->pairs.size(), 1u);
}

TEST_F(PreferencesTest, BatchesAlternateChosenAndRejectedAndDependOnTheStepAlone) {
  auto set = Load(Data(kTwo));
  ASSERT_TRUE(set.ok()) << set.status();
  PreferenceSource source(std::make_shared<const PreferenceSet>(*std::move(set)), /*seed=*/1,
                          /*shuffle=*/false, /*pairs_per_step=*/3);
  const auto batch = source.Next(1);
  ASSERT_TRUE(batch.ok()) << batch.status();
  ASSERT_EQ(batch->sequences.size(), 6u);
  EXPECT_THAT(batch->sequences[2].token_ids, ElementsAreArray(Ids("ab$")));
  EXPECT_THAT(batch->sequences[3].token_ids, ElementsAreArray(Ids("ac$")));
  EXPECT_EQ(batch->sequences[4].token_ids, batch->sequences[0].token_ids);
  EXPECT_TRUE(batch->group_ids.empty());
  EXPECT_EQ(source.Next(2)->sequences[0].token_ids, batch->sequences[2].token_ids);
  EXPECT_FALSE(source.Next(0).ok());
}

}  // namespace
}  // namespace rollcall::learner
