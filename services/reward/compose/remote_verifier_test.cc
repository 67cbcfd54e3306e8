#include "services/reward/compose/remote_verifier.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/metrics/registry.h"
#include "services/reward/fake_verifier.h"

namespace rollcall::reward {
namespace {

using ::testing::HasSubstr;

v1::ScoreRequest Request() {
  v1::ScoreRequest request;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(
      "groups { group_id: 1 samples { index: 0 text: 'a' } samples { index: 1 text: 'bb' } } "
      "groups { group_id: 2 samples { index: 0 text: 'ccc' } } "
      "idempotency_key: 'k' deadline_seconds: 5",
      &request));
  return request;
}

class RemoteVerifierTest : public testing::Test {
 protected:
  std::vector<v1::GroupResult> Score(const FakeVerifier& fake, uint32_t retries = 2,
                                     absl::Duration timeout = absl::Seconds(20),
                                     absl::Duration deadline = absl::Seconds(30)) {
    RemoteVerifier verifier(
        {.name = "fake", .address = fake.address(), .timeout = timeout, .retries = retries},
        fake.NewStub(), &timer_, &metrics_);
    const v1::ScoreRequest request = Request();
    std::vector<v1::GroupResult> results;
    absl::Notification done;
    verifier.Score(request, absl::Now() + deadline, [&](std::vector<v1::GroupResult> groups) {
      results = std::move(groups);
      done.Notify();
    });
    EXPECT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(60)));
    EXPECT_EQ(results.size(), 2u);
    return results;
  }

  metrics::Registry registry_;
  VerifierMetrics metrics_{registry_, "fake"};
  RetryTimer timer_;
};

TEST_F(RemoteVerifierTest, PassesScoresOn) {
  FakeVerifier fake;
  const auto results = Score(fake);
  EXPECT_EQ(results[0].samples(1).score().value(), 2);
  EXPECT_EQ(results[1].samples(0).score().value(), 3);
  ASSERT_EQ(fake.requests().size(), 1u);
  EXPECT_EQ(fake.requests()[0].idempotency_key(), "k");
  EXPECT_GT(fake.requests()[0].deadline_seconds(), 0);
  EXPECT_LE(fake.requests()[0].deadline_seconds(), 20);
}

TEST_F(RemoteVerifierTest, TriesAgainAfterPassingErrorsWithTheSameKey) {
  FakeVerifier fake([](int call, const auto& request, auto* response) {
    if (call == 1) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "starting");
    if (call == 2) return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full");
    return FakeVerifier::ScoreLengths(call, request, response);
  });
  EXPECT_EQ(Score(fake)[1].samples(0).score().value(), 3);
  ASSERT_EQ(fake.requests().size(), 3u);
  for (const auto& request : fake.requests()) EXPECT_EQ(request.idempotency_key(), "k");
  EXPECT_EQ(metrics_.repeated.Value(), 2);
  EXPECT_EQ(metrics_.failed_calls.Value(), 2);
}

TEST_F(RemoteVerifierTest, GivesRetryWhenItsTriesEnd) {
  FakeVerifier fake(FakeVerifier::Fail(grpc::StatusCode::UNAVAILABLE, "down"));
  const auto results = Score(fake, 1);
  EXPECT_EQ(fake.requests().size(), 2u);
  EXPECT_THAT(results[0].samples(1).retry().reason(), HasSubstr("down"));
  EXPECT_THAT(results[0].samples(1).retry().reason(), HasSubstr(fake.address()));
  EXPECT_TRUE(results[1].samples(0).has_retry());
}

TEST_F(RemoteVerifierTest, OtherErrorsAreFinal) {
  FakeVerifier fake(
      FakeVerifier::Fail(grpc::StatusCode::UNKNOWN, "Exception calling application: boom"));
  const auto results = Score(fake);
  EXPECT_EQ(fake.requests().size(), 1u);
  EXPECT_THAT(results[1].samples(0).error().reason(), HasSubstr("boom"));
}

TEST_F(RemoteVerifierTest, AsksAgainForWholeGroupsWithRetryUnderAnotherKey) {
  FakeVerifier fake([](int call, const auto& request, auto* response) {
    FakeVerifier::ScoreLengths(call, request, response);
    if (call == 1) {
      response->mutable_groups(0)->mutable_samples(1)->mutable_retry()->set_reason("busy");
    }
    return grpc::Status::OK;
  });
  const auto results = Score(fake);
  const auto requests = fake.requests();
  ASSERT_EQ(requests.size(), 2u);
  ASSERT_EQ(requests[1].groups_size(), 1);
  EXPECT_EQ(requests[1].groups(0).group_id(), 1u);
  EXPECT_EQ(requests[1].groups(0).samples_size(), 2);
  EXPECT_NE(requests[1].idempotency_key(), "k");
  EXPECT_EQ(results[0].samples(1).score().value(), 2);
  EXPECT_EQ(results[1].samples(0).score().value(), 3);
}

TEST_F(RemoteVerifierTest, InvalidAnswersAreFaultsOfTheVerifier) {
  FakeVerifier nan([](int call, const auto& request, auto* response) {
    FakeVerifier::ScoreLengths(call, request, response);
    response->mutable_groups(0)->mutable_samples(1)->mutable_score()->set_value(
        std::numeric_limits<double>::quiet_NaN());
    return grpc::Status::OK;
  });
  auto results = Score(nan);
  EXPECT_EQ(results[0].samples(0).score().value(), 1);
  EXPECT_THAT(results[0].samples(1).error().reason(), HasSubstr("must be finite"));
  EXPECT_EQ(metrics_.invalid.Value(), 1);
  FakeVerifier empty([](int, const auto&, auto*) { return grpc::Status::OK; });
  results = Score(empty);
  EXPECT_THAT(results[0].samples(0).error().reason(), HasSubstr("groups: expected 2, got 0"));
  EXPECT_EQ(nan.requests().size(), 1u);
}

TEST_F(RemoteVerifierTest, ASlowVerifierCostsItsTimeoutAndIsARetry) {
  FakeVerifier slow(FakeVerifier::Hold);
  const auto results = Score(slow, 1, absl::Milliseconds(100));
  EXPECT_TRUE(results[0].samples(0).has_retry()) << results[0].DebugString();
  EXPECT_EQ(metrics_.failed_calls.Value(), 2);
}

TEST_F(RemoteVerifierTest, TheCallersDeadlineEndsTheTries) {
  FakeVerifier fake(FakeVerifier::Fail(grpc::StatusCode::UNAVAILABLE, "down"));
  const absl::Time start = absl::Now();
  const auto results = Score(fake, 100, absl::Seconds(20), absl::Milliseconds(400));
  EXPECT_LT(absl::Now() - start, absl::Seconds(20));
  EXPECT_TRUE(results[0].samples(0).has_retry());
  EXPECT_LT(fake.requests().size(), 6u);
}

TEST_F(RemoteVerifierTest, CancelEndsACallAndAWait) {
  FakeVerifier held(FakeVerifier::Hold);
  FakeVerifier down(FakeVerifier::Fail(grpc::StatusCode::UNAVAILABLE, "down"));
  SimulatedClock clock(absl::Now());
  RetryTimer frozen(&clock);  // Its waits between tries never end.
  const v1::ScoreRequest request = Request();
  for (FakeVerifier* fake : {&held, &down}) {
    RemoteVerifier verifier(
        {.name = "fake", .address = fake->address(), .timeout = absl::Seconds(60), .retries = 5},
        fake->NewStub(), &frozen, &metrics_);
    absl::Notification done;
    const Verifier::Cancel cancel =
        verifier.Score(request, absl::Now() + absl::Seconds(100),
                       [&](const std::vector<v1::GroupResult>&) { done.Notify(); });
    if (fake == &held) {
      ASSERT_TRUE(held.AwaitHeld(1));
    } else {
      ASSERT_TRUE(clock.AwaitWaiters(1, absl::Seconds(30)));
    }
    cancel();
    EXPECT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(30)));
    cancel();
  }
}

TEST(DecideRetryTest, RepeatsPassingFaultsWhileTriesAndTimeAreLeft) {
  const absl::Time now = absl::UnixEpoch();
  const absl::Time far = now + absl::Hours(1);
  EXPECT_TRUE(DecideRetry(true, 1, 2, 7, now, far).again);
  EXPECT_TRUE(DecideRetry(true, 2, 2, 7, now, far).again);
  EXPECT_FALSE(DecideRetry(true, 3, 2, 7, now, far).again);
  EXPECT_FALSE(DecideRetry(true, 1, 0, 7, now, far).again);
  EXPECT_FALSE(DecideRetry(false, 1, 2, 7, now, far).again);
  EXPECT_FALSE(DecideRetry(true, 1, 2, 7, now, now + absl::Milliseconds(50)).again);
}

TEST(BackoffAfterTest, DoublesUpToItsMostAndIsSpread) {
  for (uint32_t attempt : {1, 2, 3, 6, 7, 50}) {
    const absl::Duration full =
        std::min(absl::Seconds(5), absl::Milliseconds(100) * (1 << (std::min(attempt, 20u) - 1)));
    for (uint64_t seed : {1, 2, 3}) {
      EXPECT_LE(BackoffAfter(attempt, seed), full) << attempt;
      EXPECT_GE(BackoffAfter(attempt, seed), full * 0.8) << attempt;
    }
  }
  EXPECT_NE(BackoffAfter(3, 1), BackoffAfter(3, 2));
  EXPECT_EQ(BackoffAfter(3, 1), BackoffAfter(3, 1));
}

TEST(RetryTimerTest, RunsInOrderOfTimeAndDropsTheRest) {
  SimulatedClock clock;
  std::vector<int> order;
  bool dropped_ran = false;
  {
    RetryTimer timer(&clock);
    absl::Notification second;
    timer.RunAt(clock.Now() + absl::Seconds(2), [&] {
      order.push_back(2);
      second.Notify();
    });
    timer.RunAt(clock.Now() + absl::Seconds(1), [&] { order.push_back(1); });
    timer.RunAt(clock.Now() + absl::Hours(1), [&] { dropped_ran = true; });
    ASSERT_TRUE(clock.AwaitWaiters(1, absl::Seconds(30)));
    clock.Advance(absl::Seconds(3));
    ASSERT_TRUE(second.WaitForNotificationWithTimeout(absl::Seconds(30)));
  }
  EXPECT_EQ(order, (std::vector<int>{1, 2}));
  EXPECT_FALSE(dropped_ran);
}

}  // namespace
}  // namespace rollcall::reward
