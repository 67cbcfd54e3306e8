#include "services/learner/rollout/group_accounts.h"

#include <gtest/gtest.h>

#include <set>

#include "common/base/philox.h"

namespace rollcall::learner {
namespace {

TEST(GroupAccountsTest, EveryGroupIsInExactlyOneColumn) {
  GroupAccounts accounts;
  for (uint64_t id = 0; id < 5; ++id) ASSERT_TRUE(accounts.Issue(id).ok());
  ASSERT_TRUE(accounts.Train(0).ok());
  ASSERT_TRUE(accounts.Filter(1).ok());
  ASSERT_TRUE(accounts.Drop(2, "verifier_failed").ok());
  EXPECT_EQ(accounts.counts().issued(), 5u);
  EXPECT_EQ(accounts.counts().trained(), 1u);
  EXPECT_EQ(accounts.counts().filtered(), 1u);
  EXPECT_EQ(accounts.counts().dropped().at("verifier_failed"), 1u);
  EXPECT_EQ(accounts.counts().in_flight(), 2u);
  EXPECT_TRUE(accounts.CheckBalance().ok());
}

TEST(GroupAccountsTest, ImpossibleTransitionsAreRefusedAndChangeNothing) {
  GroupAccounts accounts;
  ASSERT_TRUE(accounts.Issue(0).ok());
  EXPECT_FALSE(accounts.Issue(0).ok());
  EXPECT_FALSE(accounts.Issue(2).ok());
  EXPECT_FALSE(accounts.Train(1).ok());
  ASSERT_TRUE(accounts.Train(0).ok());
  EXPECT_FALSE(accounts.Train(0).ok());
  EXPECT_FALSE(accounts.Drop(0, "stale").ok());
  EXPECT_EQ(accounts.counts().issued(), 1u);
  EXPECT_EQ(accounts.counts().trained(), 1u);
  EXPECT_TRUE(accounts.CheckBalance().ok());
}

TEST(GroupAccountsTest, ACheckpointCoversOnlySettledGroups) {
  GroupAccounts accounts;
  for (uint64_t id = 0; id < 4; ++id) ASSERT_TRUE(accounts.Issue(id).ok());
  ASSERT_TRUE(accounts.Train(0).ok());
  ASSERT_TRUE(accounts.Drop(3, "generation_failed").ok());
  EXPECT_FALSE(accounts.AdvanceHorizon(2).ok());
  ASSERT_TRUE(accounts.Train(1).ok());
  ASSERT_TRUE(accounts.AdvanceHorizon(2).ok());
  EXPECT_EQ(accounts.settled().issued(), 2u);
  EXPECT_EQ(accounts.settled().trained(), 2u);
  EXPECT_EQ(accounts.settled().dropped_size(), 0);

  GroupAccounts resumed(2, accounts.settled());
  ASSERT_TRUE(resumed.Issue(2).ok());
  EXPECT_EQ(resumed.counts().issued(), 3u);
  EXPECT_TRUE(resumed.CheckBalance().ok());
}

// Any sequence of transitions, legal or not, keeps the books balanced, also over checkpoints.
TEST(GroupAccountsTest, RandomHistoriesBalance) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    PhiloxStream random(seed, 1);
    GroupAccounts accounts;
    std::set<uint64_t> open;
    uint64_t settled_below = 0;
    for (int event = 0; event < 400; ++event) {
      const uint64_t id = random.Below(accounts.next_group_id() + 2);
      switch (random.Below(5)) {
        case 0:
          if (accounts.Issue(accounts.next_group_id()).ok()) {
            open.insert(accounts.next_group_id() - 1);
          }
          break;
        case 1:
          EXPECT_EQ(accounts.Train(id).ok(), open.erase(id) == 1);
          break;
        case 2:
          EXPECT_EQ(accounts.Filter(id).ok(), open.erase(id) == 1);
          break;
        case 3:
          EXPECT_EQ(accounts.Drop(id, id % 2 == 0 ? "stale" : "shutdown").ok(),
                    open.erase(id) == 1);
          break;
        case 4: {
          const uint64_t horizon = open.empty() ? accounts.next_group_id() : *open.begin();
          ASSERT_TRUE(accounts.AdvanceHorizon(horizon).ok());
          settled_below = horizon;
          break;
        }
      }
      ASSERT_TRUE(accounts.CheckBalance().ok()) << accounts.CheckBalance();
      ASSERT_EQ(accounts.counts().in_flight(), open.size());
      ASSERT_EQ(accounts.settled().issued(), settled_below);
    }
  }
}

}  // namespace
}  // namespace rollcall::learner
