#include "services/cli/demo/addition_task.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "common/base/file.h"

namespace rollcall::cli {
namespace {

std::string TempFolder(const std::string& name) {
  const std::string folder = testing::TempDir() + "addition_task_" + name;
  std::filesystem::remove_all(folder);
  return folder;
}

std::vector<nlohmann::json> ReadRows(const std::string& path) {
  std::istringstream lines(ReadFile(path).value());
  std::vector<nlohmann::json> rows;
  for (std::string line; std::getline(lines, line);) rows.push_back(nlohmann::json::parse(line));
  return rows;
}

// Worked by hand.
TEST(AdditionProblem, ShowsEachColumnUnitsFirst) {
  EXPECT_EQ((AdditionProblem{587, 744}.Demonstration(true)), "7+4=11,8+4+1=13,5+7+1=13 =1331");
  EXPECT_EQ((AdditionProblem{563, 986}.Demonstration(false)), "3+6=9,6+8=14,5+9=14 =1449");
  EXPECT_EQ((AdditionProblem{899, 576}.Demonstration(false)), "9+6=15,9+7=16,8+5=13 =1365");
  EXPECT_EQ((AdditionProblem{562, 620}.Demonstration(true)), "2+0=2,6+2=8,5+6=11 =1182");
  EXPECT_EQ((AdditionProblem{100, 100}.Demonstration(true)), "0+0=0,0+0=0,1+1=2 =200");
}

TEST(AdditionProblem, ACarryingDemonstrationIsAlwaysRight) {
  for (int left = 100; left < 1000; left += 7) {
    for (int right = 100; right < 1000; right += 11) {
      const AdditionProblem problem{left, right};
      const std::string text = problem.Demonstration(true);
      EXPECT_EQ(text.substr(text.rfind('=') + 1), problem.Answer()) << problem.Prompt();
    }
  }
}

TEST(WriteAdditionData, SplitsAreDisjointAndSlipsHaveTheirShare) {
  const std::string folder = TempFolder("splits");
  ASSERT_TRUE(WriteAdditionData(
                  folder, {.seed = 3, .demonstrations = 4000, .prompts = 1000, .held_out = 200})
                  .ok());

  std::map<std::string, std::set<std::string>> prompts;
  for (const char* file : {"sft", "train", "held_out", "validation"}) {
    for (const auto& row : ReadRows(folder + "/" + file + ".jsonl")) {
      prompts[file].insert(row["prompt"].get<std::string>());
    }
  }
  EXPECT_EQ(prompts["held_out"].size(), 200u);
  EXPECT_EQ(prompts["validation"].size(), 200u);
  for (const std::string& held_out : prompts["held_out"]) {
    EXPECT_FALSE(prompts["sft"].count(held_out) || prompts["train"].count(held_out) ||
                 prompts["validation"].count(held_out))
        << held_out;
  }
  int right = 0;
  int needs_no_carry_or_carries = 0;
  for (const auto& row : ReadRows(folder + "/sft.jsonl")) {
    const std::string prompt = row["prompt"];
    const std::string completion = row["completion"];
    const AdditionProblem problem{std::stoi(prompt.substr(0, 3)), std::stoi(prompt.substr(4, 3))};
    right += completion.substr(completion.rfind('=') + 1) == problem.Answer();
    needs_no_carry_or_carries += completion == problem.Demonstration(true);
  }
  EXPECT_EQ(right, needs_no_carry_or_carries);
  // 40 % carry; of the others the share without any carry between columns (0.55 * 0.55 of digit
  // pairs) is right as well.
  EXPECT_NEAR(right / 4000.0, 0.4 + 0.6 * 0.3, 0.04);
}

TEST(WriteAdditionData, IsAFunctionOfItsSeed) {
  const AdditionDataOptions options{.seed = 5, .demonstrations = 50, .prompts = 50, .held_out = 20};
  const std::string a = TempFolder("a");
  const std::string b = TempFolder("b");
  const std::string c = TempFolder("c");
  ASSERT_TRUE(WriteAdditionData(a, options).ok());
  ASSERT_TRUE(WriteAdditionData(b, options).ok());
  AdditionDataOptions other = options;
  other.seed = 6;
  ASSERT_TRUE(WriteAdditionData(c, other).ok());
  for (const char* file : {"/sft.jsonl", "/train.jsonl", "/held_out.jsonl"}) {
    EXPECT_EQ(ReadFile(a + file).value(), ReadFile(b + file).value());
    EXPECT_NE(ReadFile(a + file).value(), ReadFile(c + file).value());
  }
}

}  // namespace
}  // namespace rollcall::cli
