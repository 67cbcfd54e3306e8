#include "common/rpc/liveness.h"

#include <gtest/gtest.h>

#include <vector>

#include "common/base/bounded_queue.h"

namespace rollcall::rpc {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(8);
constexpr absl::Duration kLook = absl::Seconds(1);
constexpr absl::Duration kPatience = absl::Seconds(30);

class LivenessTest : public testing::Test {
 protected:
  // Lets the watch take `looks` looks, one after the other.
  void Look(int looks) {
    for (int i = 0; i < looks; ++i) {
      ASSERT_TRUE(clock_.AwaitWaiters(1, kPatience));
      clock_.Advance(kLook);
    }
    // The last look is over once the thread waits for the next.
    ASSERT_TRUE(clock_.AwaitWaiters(1, kPatience));
  }

  SimulatedClock clock_;
  const std::shared_ptr<Progress> progress_ = std::make_shared<Progress>(&clock_);
  BoundedQueue<bool> reports_{16};
  LivenessWatch watch_{progress_, kTimeout, [this](bool live) { reports_.Push(live); }, &clock_};
};

TEST_F(LivenessTest, AnIdleServiceIsAlive) {
  Look(20);
  EXPECT_EQ(reports_.size(), 0);
}

TEST_F(LivenessTest, WorkThatAdvancesIsAlive) {
  progress_->Begin();
  for (int i = 0; i < 5; ++i) {
    Look(7);
    progress_->Advance(/*more_waits=*/true);
  }
  EXPECT_EQ(reports_.size(), 0);
}

TEST_F(LivenessTest, WaitingWorkThatStandsStillIsNotUntilItGoesOn) {
  progress_->Begin();
  Look(7);
  EXPECT_EQ(reports_.size(), 0);
  Look(1);
  EXPECT_EQ(reports_.PopFor(kPatience), false);
  progress_->Begin();  // more work does not hide that the loop stands still
  Look(3);
  EXPECT_EQ(reports_.size(), 0);  // told once
  progress_->Advance(/*more_waits=*/true);
  Look(1);
  EXPECT_EQ(reports_.PopFor(kPatience), true);
}

TEST_F(LivenessTest, WorkThatIsDoneStopsTheTime) {
  progress_->Begin();
  Look(5);
  EXPECT_EQ(progress_->StandsStillFor(), 5 * kLook);
  progress_->Advance(/*more_waits=*/false);
  EXPECT_EQ(progress_->StandsStillFor(), absl::ZeroDuration());
  Look(20);
  EXPECT_EQ(reports_.size(), 0);
}

}  // namespace
}  // namespace rollcall::rpc
