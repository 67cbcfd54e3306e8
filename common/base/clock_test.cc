#include "common/base/clock.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace rollcall {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(30);

TEST(RealClockTest, WaitsForTheConditionOrTheDeadline) {
  absl::Mutex mutex;
  bool flag = false;
  absl::MutexLock lock(&mutex);
  const absl::Time deadline = Clock::Real()->Now() + absl::Milliseconds(5);
  EXPECT_FALSE(Clock::Real()->AwaitWithDeadline(&mutex, absl::Condition(&flag), deadline));
  EXPECT_GE(Clock::Real()->Now(), deadline);
  flag = true;
  EXPECT_TRUE(
      Clock::Real()->AwaitWithDeadline(&mutex, absl::Condition(&flag), absl::InfinitePast()));
}

TEST(SimulatedClockTest, MovesOnlyWhenAdvanced) {
  SimulatedClock clock(absl::FromUnixSeconds(100));
  EXPECT_EQ(clock.Now(), absl::FromUnixSeconds(100));
  clock.Advance(absl::Seconds(5));
  EXPECT_EQ(clock.Now(), absl::FromUnixSeconds(105));
}

TEST(SimulatedClockTest, DeadlineComesWithAdvance) {
  SimulatedClock clock;
  absl::Mutex mutex;
  bool flag = false;
  std::atomic<int> timed_out = 0;
  std::thread early([&] {
    absl::MutexLock lock(&mutex);
    if (!clock.AwaitWithDeadline(&mutex, absl::Condition(&flag),
                                 absl::UnixEpoch() + absl::Seconds(10))) {
      ++timed_out;
    }
  });
  std::thread late([&] {
    absl::MutexLock lock(&mutex);
    if (!clock.AwaitWithDeadline(&mutex, absl::Condition(&flag),
                                 absl::UnixEpoch() + absl::Seconds(20))) {
      ++timed_out;
    }
  });
  EXPECT_TRUE(clock.AwaitWaiters(2, kPatience));
  clock.Advance(absl::Seconds(10));
  early.join();
  EXPECT_EQ(timed_out, 1);
  EXPECT_TRUE(clock.AwaitWaiters(1, kPatience));
  clock.Advance(absl::Seconds(10));
  late.join();
  EXPECT_EQ(timed_out, 2);
}

TEST(SimulatedClockTest, ConditionWakesWithoutAdvance) {
  SimulatedClock clock;
  absl::Mutex mutex;
  bool flag = false;
  bool held = false;
  std::thread waiter([&] {
    absl::MutexLock lock(&mutex);
    held = clock.AwaitWithDeadline(&mutex, absl::Condition(&flag), absl::InfiniteFuture());
  });
  ASSERT_TRUE(clock.AwaitWaiters(1, kPatience));
  {
    absl::MutexLock lock(&mutex);
    flag = true;
  }
  waiter.join();
  EXPECT_TRUE(held);
}

TEST(SimulatedClockTest, PastDeadlineReportsTheConditionAtOnce) {
  SimulatedClock clock;
  absl::Mutex mutex;
  bool flag = true;
  absl::MutexLock lock(&mutex);
  EXPECT_TRUE(clock.AwaitWithDeadline(&mutex, absl::Condition(&flag), absl::InfinitePast()));
  flag = false;
  EXPECT_FALSE(clock.AwaitWithDeadline(&mutex, absl::Condition(&flag), absl::InfinitePast()));
}

// Waiters whose mutex dies right after the wait, against concurrent Advance() and changes of the
// condition.
TEST(SimulatedClockTest, SurvivesAdvanceRacingWithWakeUps) {
  SimulatedClock clock;
  std::atomic<bool> stop = false;
  std::thread ticker([&] {
    while (!stop) clock.Advance(absl::Milliseconds(1));
  });
  std::vector<std::thread> waiters;
  for (int i = 0; i < 4; ++i) {
    waiters.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        absl::Mutex mutex;
        bool flag = false;
        std::thread setter([&] {
          absl::MutexLock lock(&mutex);
          flag = true;
        });
        {
          absl::MutexLock lock(&mutex);
          clock.AwaitWithDeadline(&mutex, absl::Condition(&flag),
                                  clock.Now() + absl::Milliseconds(2));
        }
        setter.join();
      }
    });
  }
  for (std::thread& waiter : waiters) waiter.join();
  stop = true;
  ticker.join();
}

}  // namespace
}  // namespace rollcall
