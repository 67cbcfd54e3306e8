#include "services/learner/reference/ahead_source.h"

#include <gtest/gtest.h>

#include <atomic>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"

namespace rollcall::learner {
namespace {

// A batch of one sequence, whose token is the step.
class CountingSource final : public BatchSource {
 public:
  explicit CountingSource(std::atomic<uint64_t>* drawn) : drawn_(drawn) {}
  absl::StatusOr<TrainBatch> Next(uint64_t step) override {
    ++*drawn_;
    TrainBatch batch;
    batch.sequences.emplace_back().token_ids = {static_cast<uint32_t>(step)};
    return batch;
  }

 private:
  std::atomic<uint64_t>* const drawn_;
};

TEST(AheadSource, DeliversPreparedBatchesInTurnFromTheFirstAskedFor) {
  std::atomic<uint64_t> drawn = 0;
  AheadSource source(
      std::make_unique<CountingSource>(&drawn),
      [](TrainBatch& batch) {
        batch.sequences[0].token_ids[0] += 100;
        return absl::OkStatus();
      },
      [] {}, /*last_step=*/5);
  for (uint64_t step = 3; step <= 5; ++step) {
    const auto batch = source.Next(step);
    ASSERT_TRUE(batch.ok()) << batch.status();
    EXPECT_EQ(batch->sequences[0].token_ids[0], 100 + step);
  }
  EXPECT_TRUE(absl::IsOutOfRange(source.Next(6).status()));
  EXPECT_EQ(drawn, 3u);
}

TEST(AheadSource, RefusesAStepOutOfTurn) {
  std::atomic<uint64_t> drawn = 0;
  AheadSource source(
      std::make_unique<CountingSource>(&drawn), [](TrainBatch&) { return absl::OkStatus(); }, [] {},
      9);
  ASSERT_TRUE(source.Next(1).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(source.Next(3).status()));
  EXPECT_TRUE(source.Next(2).ok());
}

TEST(AheadSource, PreparesTheNextBatchWhileTheLastIsInUse) {
  std::atomic<uint64_t> drawn = 0;
  absl::Notification second;
  AheadSource source(
      std::make_unique<CountingSource>(&drawn),
      [&](TrainBatch& batch) {
        if (batch.sequences[0].token_ids[0] == 2) second.Notify();
        return absl::OkStatus();
      },
      [] {}, 9);
  ASSERT_TRUE(source.Next(1).ok());
  EXPECT_TRUE(second.WaitForNotificationWithTimeout(absl::Seconds(10)));
}

TEST(AheadSource, AFailureArrivesInItsTurn) {
  std::atomic<uint64_t> drawn = 0;
  AheadSource source(
      std::make_unique<CountingSource>(&drawn),
      [](TrainBatch& batch) {
        return batch.sequences[0].token_ids[0] == 2 ? absl::InternalError("no reference")
                                                    : absl::OkStatus();
      },
      [] {}, 9);
  EXPECT_TRUE(source.Next(1).ok());
  EXPECT_TRUE(absl::IsInternal(source.Next(2).status()));
  EXPECT_FALSE(source.Next(3).ok());
  EXPECT_EQ(drawn, 2u);
}

TEST(AheadSource, StopWakesWhoWaits) {
  std::atomic<uint64_t> drawn = 0;
  absl::Mutex mutex;
  bool cancelled = false;
  absl::Notification preparing;
  AheadSource source(
      std::make_unique<CountingSource>(&drawn),
      [&](TrainBatch&) {
        preparing.Notify();
        absl::MutexLock lock(&mutex);
        mutex.Await(absl::Condition(&cancelled));
        return absl::CancelledError("cancelled");
      },
      [&] {
        absl::MutexLock lock(&mutex);
        cancelled = true;
      },
      9);
  std::thread stopper([&] {
    preparing.WaitForNotification();
    source.Stop(absl::AbortedError("enough"));
  });
  EXPECT_TRUE(absl::IsAborted(source.Next(1).status()));
  stopper.join();
}

}  // namespace
}  // namespace rollcall::learner
