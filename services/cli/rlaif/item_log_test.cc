#include "services/cli/rlaif/item_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"

namespace rollcall::cli {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

const StepInputs& Inputs() {
  static const auto* const kInputs = new StepInputs{{"seed", "3"}, {"weights", "ab"}};
  return *kInputs;
}

class ItemLogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = absl::StrCat(testing::TempDir(), "/items_", getpid(), "_",
                         testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove(path_);
  }
  void TearDown() override { std::filesystem::remove(path_); }

  std::unique_ptr<ItemLog> Open() {
    auto log = ItemLog::Open(path_, Inputs());
    EXPECT_TRUE(log.ok()) << log.status();
    return log.ok() ? *std::move(log) : nullptr;
  }

  std::string path_;
};

TEST_F(ItemLogTest, KeepsWhatWasAppended) {
  {
    const auto log = Open();
    ASSERT_TRUE(log->Append({7, 1}, {{"text", "two\n\"lines\""}}).ok());
    ASSERT_TRUE(log->Append({7, 0}, Json::array({1, 2})).ok());
    EXPECT_FALSE(log->Append({7, 0}, Json()).ok());
  }
  const auto log = Open();
  ASSERT_EQ(log->items().size(), 2u);
  EXPECT_TRUE(log->Has({7, 0}));
  EXPECT_FALSE(log->Has({6, 0}));
  EXPECT_EQ(log->items().at({7, 0}), Json::array({1, 2}));
  EXPECT_EQ(log->items().at({7, 1}).at("text"), "two\n\"lines\"");
}

// A file cut at any byte is opened again with the items whose lines are whole, and goes on.
TEST_F(ItemLogTest, GoesOnFromATearAtEveryByte) {
  {
    const auto log = Open();
    for (uint64_t item = 0; item < 3; ++item) {
      ASSERT_TRUE(log->Append({item, 0}, {{"text", absl::StrCat("answer ", item)}}).ok());
    }
  }
  const std::string whole = ReadFile(path_).value();
  for (size_t size = 0; size <= whole.size(); ++size) {
    ASSERT_TRUE(WriteFileAtomically(path_, whole.substr(0, size)).ok());
    {
      const auto log = Open();
      ASSERT_NE(log, nullptr) << size;
      for (uint64_t item = log->items().size(); item < 3; ++item) {
        ASSERT_TRUE(log->Append({item, 0}, {{"text", absl::StrCat("answer ", item)}}).ok());
      }
    }
    EXPECT_EQ(ReadFile(path_).value(), whole) << size;
  }
}

TEST_F(ItemLogTest, RefusesTheItemsOfOtherInputs) {
  Open();
  const auto other = ItemLog::Open(path_, {{"seed", "4"}, {"weights", "ab"}});
  EXPECT_EQ(other.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(other.status().message(), HasSubstr(":1: made with another seed: 3, now 4"));
  const auto more = ItemLog::Open(path_, {{"seed", "3"}, {"weights", "ab"}, {"rounds", "2"}});
  EXPECT_THAT(more.status().message(), HasSubstr("rounds: none, now 2"));
}

TEST_F(ItemLogTest, RefusesADamagedLineWithItsPlace) {
  {
    const auto log = Open();
    ASSERT_TRUE(log->Append({0, 0}, 1).ok());
  }
  const std::string good = ReadFile(path_).value();
  for (const char* bad :
       {"{\"item\": [1, 0]}\n", "nonsense\n", "{\"item\": [0, 0], \"result\": 2}\n",
        "{\"item\": \"0\", \"result\": 2}\n"}) {
    ASSERT_TRUE(WriteFileAtomically(path_, good + bad).ok());
    const auto log = ItemLog::Open(path_, Inputs());
    EXPECT_EQ(log.status().code(), absl::StatusCode::kDataLoss) << bad;
    EXPECT_THAT(log.status().message(), HasSubstr(absl::StrCat(path_, ":3: "))) << bad;
  }
}

}  // namespace
}  // namespace rollcall::cli
