#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "common/base/clock.h"
#include "common/base/progress.h"
#include "common/batching/batch_engine.h"
#include "common/batching/batch_queue.h"
#include "common/metrics/registry.h"

namespace rollcall::batching {
namespace {

using ::testing::ElementsAre;

struct Tokens {
  std::vector<uint32_t> token_ids;
};
using TestJob = ScoreJob<Tokens, size_t, std::string>;
using JobPtr = std::shared_ptr<TestJob>;
using Queue = BatchQueue<TestJob>;

JobPtr Job(const std::vector<size_t>& lengths, const std::string& mode = "") {
  auto job = std::make_shared<TestJob>();
  for (const size_t length : lengths) job->sequences.push_back({std::vector<uint32_t>(length, 1)});
  job->mode = mode;
  job->done = [](const TestJob::Result&) {};
  return job;
}

std::vector<size_t> LengthsOf(const Batch<TestJob>& batch) {
  std::vector<size_t> lengths;
  for (const auto& item : batch.items) {
    lengths.push_back(item.job->sequences[item.sequence].token_ids.size());
  }
  return lengths;
}

TEST(BatchQueueTest, CutsBatchesByTokensInOrderOfArrival) {
  Queue queue({.batch_tokens = 10, .max_waiting_sequences = 100}, Clock::Real());
  ASSERT_TRUE(queue.Admit(Job({4, 4})).ok());
  ASSERT_TRUE(queue.Admit(Job({2, 12, 3})).ok());
  EXPECT_THAT(LengthsOf(*queue.Next()), ElementsAre(4, 4, 2));
  EXPECT_THAT(LengthsOf(*queue.Next()), ElementsAre(12));  // longer than the budget: alone
  EXPECT_THAT(LengthsOf(*queue.Next()), ElementsAre(3));
  queue.Close();
  EXPECT_EQ(queue.Next(), std::nullopt);
}

TEST(BatchQueueTest, ABatchHasOneMode) {
  Queue queue({.batch_tokens = 100, .max_waiting_sequences = 100}, Clock::Real());
  ASSERT_TRUE(queue.Admit(Job({3}, "a")).ok());
  ASSERT_TRUE(queue.Admit(Job({4}, "b")).ok());
  ASSERT_TRUE(queue.Admit(Job({5}, "b")).ok());
  EXPECT_THAT(LengthsOf(*queue.Next()), ElementsAre(3));
  EXPECT_THAT(LengthsOf(*queue.Next()), ElementsAre(4, 5));
}

TEST(BatchQueueTest, RefusesWhatWouldPassTheBound) {
  Queue queue({.batch_tokens = 100, .max_waiting_sequences = 3}, Clock::Real());
  ASSERT_TRUE(queue.Admit(Job({1, 1, 1, 1, 1})).ok());  // larger than the bound, but alone
  EXPECT_TRUE(absl::IsResourceExhausted(queue.Admit(Job({1}))));
  EXPECT_EQ(queue.waiting_sequences(), 5u);
  queue.Next();
  EXPECT_EQ(queue.waiting_sequences(), 0u);
  EXPECT_TRUE(queue.Admit(Job({1})).ok());
  queue.Close();
  EXPECT_TRUE(absl::IsUnavailable(queue.Admit(Job({1}))));
}

TEST(BatchQueueTest, SkipsWhatNobodyWaitsFor) {
  SimulatedClock clock;
  Queue queue({.batch_tokens = 100, .max_waiting_sequences = 100}, &clock);
  std::vector<absl::StatusCode> answers;
  const auto admit = [&](absl::Duration deadline) {
    JobPtr job = Job({2});
    job->deadline = clock.Now() + deadline;
    job->done = [&](const TestJob::Result& result) { answers.push_back(result.status().code()); };
    EXPECT_TRUE(queue.Admit(job).ok());
    return job;
  };
  admit(absl::Seconds(1));
  admit(absl::Seconds(9))->cancelled = true;
  admit(absl::Seconds(9));
  clock.Advance(absl::Seconds(2));
  EXPECT_EQ(queue.Next()->items.size(), 1u);
  EXPECT_THAT(answers,
              ElementsAre(absl::StatusCode::kDeadlineExceeded, absl::StatusCode::kCancelled));
  EXPECT_EQ(queue.waiting_sequences(), 0u);
}

TEST(BatchQueueTest, AbandonAnswersEverythingThatWaits) {
  Queue queue({}, Clock::Real());
  int answers = 0;
  JobPtr job = Job({2, 2});
  job->done = [&](const TestJob::Result& result) {
    answers += absl::IsUnavailable(result.status()) ? 1 : 0;
  };
  ASSERT_TRUE(queue.Admit(job).ok());
  queue.Abandon();
  EXPECT_EQ(answers, 1);
  EXPECT_EQ(queue.Next(), std::nullopt);
}

TEST(BatchQueueTest, ReservedPlacesCountAndHoldTheEndBack) {
  Queue queue({.batch_tokens = 100, .max_waiting_sequences = 3}, Clock::Real());
  ASSERT_TRUE(queue.Reserve(2).ok());
  ASSERT_TRUE(queue.Reserve(1).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(queue.Reserve(1)));
  queue.Release(1);
  ASSERT_TRUE(queue.Admit(Job({7})).ok());
  queue.Close();
  EXPECT_THAT(LengthsOf(*queue.Next()), ElementsAre(7));
  queue.Push(Job({5, 6}));  // was reserved before the end of the intake
  EXPECT_THAT(LengthsOf(*queue.Next()), ElementsAre(5, 6));
  EXPECT_EQ(queue.Next(), std::nullopt);
}

TEST(BatchQueueTest, AJobThatComesAfterTheAbandonIsAnswered) {
  Queue queue({}, Clock::Real());
  ASSERT_TRUE(queue.Reserve(1).ok());
  queue.Abandon();
  absl::Status answer;
  JobPtr job = Job({2});
  job->done = [&](const TestJob::Result& result) { answer = result.status(); };
  queue.Push(job);
  EXPECT_TRUE(absl::IsUnavailable(answer)) << answer;
  EXPECT_EQ(queue.Next(), std::nullopt);
  EXPECT_EQ(queue.waiting_sequences(), 0u);
}

// Answers with the length, fails at length 9.
struct LengthScorer {
  using Job = TestJob;
  using Description = std::string;
  const std::string& description() const { return name; }
  absl::StatusOr<std::vector<size_t>> Score(const Batch<TestJob>& batch) {
    std::vector<size_t> lengths = LengthsOf(batch);
    for (const size_t length : lengths) {
      if (length == 9) return absl::ResourceExhaustedError("no memory");
    }
    return lengths;
  }
  std::string name = "lengths";
};

TEST(BatchEngineTest, AnswersJobsThatSpanBatchesAndLivesOnAfterAFailure) {
  metrics::Registry registry;
  BatchMetrics metrics(registry, "test");
  Queue queue({.batch_tokens = 5, .max_waiting_sequences = 100}, Clock::Real());
  std::vector<TestJob::Result> answers;
  const auto admit = [&](const std::vector<size_t>& lengths) {
    JobPtr job = Job(lengths);
    job->done = [&](TestJob::Result result) { answers.push_back(std::move(result)); };
    EXPECT_TRUE(queue.Admit(job).ok());
  };
  admit({3, 4, 1});
  admit({9, 2});
  admit({2});
  queue.Close();
  {
    const auto engine = BatchEngine<LengthScorer>::Start(
        [] {
          return absl::StatusOr<std::unique_ptr<LengthScorer>>(std::make_unique<LengthScorer>());
        },
        &queue, &metrics);
    ASSERT_TRUE(engine.ok());
    EXPECT_EQ((*engine)->description(), "lengths");
    EXPECT_TRUE((*engine)->AwaitDrained(absl::InfiniteFuture()));
  }
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_THAT(*answers[0], ElementsAre(3, 4, 1));
  EXPECT_TRUE(absl::IsResourceExhausted(answers[1].status()));
  EXPECT_THAT(*answers[2], ElementsAre(2));
}

// Holds its first batch until it is let go.
class HeldScorer {
 public:
  using Job = TestJob;
  using Description = std::string;
  HeldScorer(absl::Notification* entered, absl::Notification* go) : entered_(entered), go_(go) {}
  const Description& description() const { return description_; }
  absl::StatusOr<Job::Answers> Score(const Batch<Job>& batch) {
    if (!entered_->HasBeenNotified()) entered_->Notify();
    go_->WaitForNotification();
    return LengthsOf(batch);
  }

 private:
  const std::string description_ = "held";
  absl::Notification* const entered_;
  absl::Notification* const go_;
};

TEST(BatchEngineTest, AForwardPassThatHangsStandsStill) {
  SimulatedClock clock;
  metrics::Registry registry;
  BatchMetrics metrics(registry, "test");
  Queue queue({}, Clock::Real());
  absl::Notification entered, go;
  const auto progress = std::make_shared<Progress>(&clock);
  const auto engine = BatchEngine<HeldScorer>::Start(
      [&] {
        return absl::StatusOr<std::unique_ptr<HeldScorer>>(
            std::make_unique<HeldScorer>(&entered, &go));
      },
      &queue, &metrics, progress);
  ASSERT_TRUE(engine.ok());
  clock.Advance(absl::Hours(1));
  EXPECT_EQ(progress->StandsStillFor(), absl::ZeroDuration());  // idle
  ASSERT_TRUE(queue.Admit(Job({3})).ok());
  entered.WaitForNotification();
  clock.Advance(absl::Seconds(100));
  EXPECT_EQ(progress->StandsStillFor(), absl::Seconds(100));
  go.Notify();
  queue.Close();
  ASSERT_TRUE((*engine)->AwaitDrained(absl::InfiniteFuture()));
  EXPECT_EQ(progress->StandsStillFor(), absl::ZeroDuration());
}

TEST(BatchEngineTest, AModelThatDoesNotLoadIsAnError) {
  metrics::Registry registry;
  BatchMetrics metrics(registry, "test");
  Queue queue({}, Clock::Real());
  const auto engine = BatchEngine<LengthScorer>::Start(
      [] {
        return absl::StatusOr<std::unique_ptr<LengthScorer>>(absl::NotFoundError("no folder"));
      },
      &queue, &metrics);
  EXPECT_TRUE(absl::IsNotFound(engine.status()));
}

}  // namespace
}  // namespace rollcall::batching
