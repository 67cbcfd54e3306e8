// Our objectives against what verl, TRL and OpenRLHF compute (golden/objectives), through the suite
// that `rollcall verify` runs.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>

#include "services/cli/verify/report.h"
#include "services/cli/verify/suite.h"

namespace rollcall::verify {
namespace {

std::string Group(const Finding& finding) {
  return finding.case_name.substr(0, finding.case_name.find('/'));
}

TEST(Objectives, EqualTheReferences) {
  const char* data = std::getenv("ROLLCALL_TEST_DATA");
  const std::string root = std::string(data == nullptr ? "" : data) + "/golden";
  if (!std::filesystem::exists(root + "/objectives")) {
    GTEST_SKIP() << "no golden objectives under ROLLCALL_TEST_DATA";
  }
  Report report;
  ASSERT_TRUE(MakeObjectivesSuite()->Run({.root = root}, report).ok());
  std::map<std::string, int> passed;
  for (const Finding& finding : report.findings()) {
    if (finding.outcome == Outcome::kPass) ++passed[Group(finding)];
    if (finding.outcome == Outcome::kNotSupported) {
      EXPECT_FALSE(finding.note.empty()) << finding.case_name;
    }
    EXPECT_NE(finding.outcome, Outcome::kFail)
        << finding.case_name << " " << finding.quantity << ": error " << finding.largest_error
        << " beyond " << finding.tolerance << "; " << finding.note;
  }
  // Comparisons a group: float32 and float64 count each.
  const std::map<std::string, int> least = {{"advantages_openrlhf", 42},
                                            {"advantages_trl", 30},
                                            {"advantages_verl", 150},
                                            {"entropy_logprob", 8},
                                            {"kl", 72},
                                            {"online_dpo", 16},
                                            {"policy_loss_trl", 90},
                                            {"policy_loss_openrlhf", 40},
                                            {"policy_loss_verl", 100},
                                            {"preference", 118},
                                            {"reward_model", 14},
                                            {"reward_shaping", 11},
                                            {"rollout_correction", 30},
                                            {"value_loss", 52}};
  for (const auto& [group, count] : least) EXPECT_GE(passed[group], count) << group;
}

TEST(Steps, EqualThoseOfTheReferencesTrainers) {
  const char* data = std::getenv("ROLLCALL_TEST_DATA");
  const std::string root = std::string(data == nullptr ? "" : data) + "/golden";
  if (!std::filesystem::exists(root + "/steps")) {
    GTEST_SKIP() << "no golden steps under ROLLCALL_TEST_DATA";
  }
  Report report;
  ASSERT_TRUE(MakeStepsSuite()->Run({.root = root}, report).ok());
  for (const Finding& finding : report.findings()) {
    EXPECT_NE(finding.outcome, Outcome::kFail)
        << finding.case_name << " " << finding.quantity << ": error " << finding.largest_error
        << " beyond " << finding.tolerance << "; " << finding.note;
  }
  // Eight online and seven offline trainers, two steps of four quantities each; five of the offline
  // ones also log rewards.
  EXPECT_GE(report.Count(Outcome::kPass), 130);
  EXPECT_EQ(report.Count(Outcome::kNotSupported), 0);
}

}  // namespace
}  // namespace rollcall::verify
