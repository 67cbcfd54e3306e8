// The loop against a model that a test holds still: every step waits until the test lets it go.
#include "services/generator/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <map>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/metrics/registry.h"

namespace rollcall::generator {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint32_t kVocab = 16;
constexpr absl::Duration kPatience = absl::Seconds(60);

// Shared by the test and the runner that the engine owns.
class Gate {
 public:
  void Allow(int64_t steps) {
    absl::MutexLock lock(&mutex_);
    allowed_ += steps;
  }
  // Blocks a step until it is allowed.
  void Enter() {
    absl::MutexLock lock(&mutex_);
    ++entered_;
    mutex_.Await(absl::Condition(
        +[](Gate* gate) { return gate->allowed_ > gate->taken_; }, this));
    ++taken_;
  }
  // Waits until so many steps have begun, allowed or not.
  void AwaitEntered(int64_t steps) {
    absl::MutexLock lock(&mutex_);
    const auto begun = [this, steps] { return entered_ >= steps; };
    mutex_.Await(absl::Condition(&begun));
  }
  absl::Status result() {
    absl::MutexLock lock(&mutex_);
    return result_;
  }
  void set_result(absl::Status status) {
    absl::MutexLock lock(&mutex_);
    result_ = std::move(status);
  }

 private:
  absl::Mutex mutex_;
  int64_t allowed_ = 0;
  int64_t entered_ = 0;
  int64_t taken_ = 0;
  absl::Status result_;
};

constexpr int kUnlimited = 1 << 30;

// After token t comes t + 1 + the weights' shift, modulo 15, with certainty; token kBroken makes
// NaN logits.
class FakeRunner final : public ModelRunner {
 public:
  static constexpr uint32_t kBroken = 15;

  explicit FakeRunner(Gate* gate) : gate_(gate) {}

  absl::Status Forward(const StepPlan& plan, std::span<const uint32_t> token_ids) override {
    gate_->Enter();
    EXPECT_EQ(plan.rows, token_ids.size());
    rows_.assign(token_ids.begin(), token_ids.end());
    return gate_->result();
  }
  absl::StatusOr<std::span<const float>> Logits(std::span<const uint32_t> rows) override {
    logits_.assign(rows.size() * kVocab, 0.0f);
    for (size_t i = 0; i < rows.size(); ++i) {
      const uint32_t token = rows_[rows[i]];
      const float value = token == kBroken ? std::numeric_limits<float>::quiet_NaN() : 1000.0f;
      logits_[i * kVocab + (token + 1 + shift_) % kBroken] = value;
    }
    return std::span<const float>(logits_);
  }
  float TokenLogProb(std::span<const float>, double temperature, uint32_t token) const override {
    return -static_cast<float>(temperature) * static_cast<float>(token);
  }
  absl::Status LoadWeights(const StagedWeights& weights) override {
    if (weights.tensors.empty()) return absl::InternalError("broken weights");
    shift_ = static_cast<uint32_t>(weights.tensors[0].bytes.size());
    return absl::OkStatus();
  }
  uint32_t vocab_size() const override { return kVocab; }

 private:
  Gate* const gate_;
  std::vector<uint32_t> rows_;
  std::vector<float> logits_;
  uint32_t shift_ = 0;
};

class CollectingSink final : public RequestSink {
 public:
  void OnAdmitted(const v1::PolicyVersion& version) override {
    absl::MutexLock lock(&mutex_);
    EXPECT_FALSE(admitted_.has_value());
    admitted_ = version;
  }
  void OnOutput(RequestOutput output) override {
    absl::MutexLock lock(&mutex_);
    EXPECT_TRUE(admitted_.has_value());
    EXPECT_FALSE(status_.has_value());
    for (const TokenOutput& token : output.tokens) {
      EXPECT_EQ(token.offset, tokens_[token.index].size() + first_offset_);
      tokens_[token.index].push_back(token.token);
    }
    for (const v1::SampleEnd& end : output.ends)
      EXPECT_TRUE(ends_.emplace(end.index(), end).second);
  }
  void OnDone(absl::Status status) override {
    absl::MutexLock lock(&mutex_);
    EXPECT_FALSE(status_.has_value()) << "finished twice";
    status_ = std::move(status);
  }

  void set_first_offset(uint32_t offset) { first_offset_ = offset; }
  absl::Status Await() {
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(this, &CollectingSink::IsDone), kPatience);
    return status_.value_or(absl::DeadlineExceededError("the request did not end"));
  }
  bool AwaitTokens(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto enough = [this, count]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
      return tokens_[0].size() >= count;
    };
    return mutex_.AwaitWithTimeout(absl::Condition(&enough), kPatience);
  }
  bool IsDone() const { return status_.has_value(); }
  bool done() {
    absl::MutexLock lock(&mutex_);
    return IsDone();
  }
  std::vector<uint32_t> tokens(uint32_t index = 0) {
    absl::MutexLock lock(&mutex_);
    return tokens_[index];
  }
  v1::SampleEnd end(uint32_t index = 0) {
    absl::MutexLock lock(&mutex_);
    return ends_[index];
  }

 private:
  absl::Mutex mutex_;
  uint32_t first_offset_ = 0;
  std::optional<v1::PolicyVersion> admitted_;
  std::map<uint32_t, std::vector<uint32_t>> tokens_;
  std::map<uint32_t, v1::SampleEnd> ends_;
  std::optional<absl::Status> status_;
};

v1::PolicyVersion Version(uint64_t lineage, uint64_t step) {
  v1::PolicyVersion version;
  version.set_run_id("run");
  version.set_lineage(lineage);
  version.set_step(step);
  return version;
}

GenerationRequest Request(std::vector<uint32_t> prompt, uint32_t samples, uint32_t max_tokens) {
  GenerationRequest request;
  request.key.set_purpose(v1::RANDOM_PURPOSE_ROLLOUT);
  request.prompt = std::move(prompt);
  for (uint32_t i = 0; i < samples; ++i) request.samples.push_back({i, {}});
  request.stop.max_tokens = max_tokens;
  request.stop.max_completion = 1000;
  return request;
}

std::shared_ptr<StagedWeights> Weights(uint64_t lineage, uint64_t step, size_t shift) {
  auto weights = std::make_shared<StagedWeights>();
  weights->version = Version(lineage, step);
  weights->tensors.push_back({{}, std::string(shift, 'x')});
  return weights;
}

class EngineTest : public testing::Test {
 protected:
  void StartEngine(std::optional<v1::PolicyVersion> version = Version(1, 0)) {
    engine_ = std::make_unique<Engine>(Engine::Options{.scheduler = scheduler_,
                                                       .on_weight_update = on_weight_update_,
                                                       .version = std::move(version),
                                                       .clock = clock_,
                                                       .progress = progress_},
                                       std::make_unique<FakeRunner>(&gate_), nullptr, &metrics_);
  }
  void TearDown() override { gate_.Allow(kUnlimited); }

  std::shared_ptr<CollectingSink> Submit(GenerationRequest request,
                                         Engine::RequestId* id = nullptr) {
    auto sink = std::make_shared<CollectingSink>();
    const auto submitted = engine_->Submit(std::move(request), sink);
    EXPECT_TRUE(submitted.ok()) << submitted.status();
    if (id != nullptr && submitted.ok()) *id = *submitted;
    return sink;
  }
  absl::Status Swap(std::shared_ptr<StagedWeights> weights) {
    absl::Notification notified;
    absl::Status result;
    engine_->SwapWeights(std::move(weights), [&](absl::Status status) {
      result = std::move(status);
      notified.Notify();
    });
    EXPECT_TRUE(notified.WaitForNotificationWithTimeout(kPatience));
    return result;
  }

  SchedulerOptions scheduler_{.num_blocks = 64,
                              .block_tokens = 16,
                              .max_running_samples = 8,
                              .max_waiting_samples = 8,
                              .max_step_tokens = 64};
  Engine::OnWeightUpdate on_weight_update_ = Engine::OnWeightUpdate::kRecompute;
  metrics::Registry registry_;
  EngineMetrics metrics_{registry_};
  SimulatedClock simulated_;
  Clock* clock_ = Clock::Real();
  std::shared_ptr<Progress> progress_ = std::make_shared<Progress>(&simulated_);
  Gate gate_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineTest, GroupGetsItsTokensAndEnds) {
  StartEngine();
  gate_.Allow(kUnlimited);
  const auto sink = Submit(Request({3, 4}, 3, 4));
  ASSERT_TRUE(sink->Await().ok());
  for (uint32_t i = 0; i < 3; ++i) {
    EXPECT_THAT(sink->tokens(i), ElementsAre(5, 6, 7, 8));
    EXPECT_EQ(sink->end(i).finish_reason(), v1::FINISH_REASON_LENGTH);
    EXPECT_EQ(sink->end(i).num_tokens(), 4u);
    ASSERT_EQ(sink->end(i).version_spans_size(), 1);
    EXPECT_EQ(sink->end(i).version_spans(0).begin(), 0u);
    EXPECT_EQ(sink->end(i).version_spans(0).end(), 4u);
  }
}

TEST_F(EngineTest, ShortRequestSubmittedDuringALongOneEndsFirst) {
  StartEngine();
  const auto slow = Submit(Request({1}, 1, 500));
  gate_.Allow(20);
  ASSERT_TRUE(slow->AwaitTokens(20));
  const auto quick = Submit(Request({2}, 1, 5));
  // Its first step may be the one that the engine has planned already without it.
  gate_.Allow(6);
  ASSERT_TRUE(quick->Await().ok());
  EXPECT_FALSE(slow->done());
  EXPECT_LE(engine_->state().engine_steps, 26u);
  gate_.Allow(kUnlimited);
  EXPECT_TRUE(slow->Await().ok());
  EXPECT_EQ(engine_->state().engine_steps, 500u);
}

// The model hangs in a step: the time runs, whoever else asks for tokens, until the step is done.
TEST_F(EngineTest, WorkThatStandsStillIsSeen) {
  StartEngine();
  simulated_.Advance(absl::Hours(1));
  EXPECT_EQ(progress_->StandsStillFor(), absl::ZeroDuration());  // idle
  const auto hung = Submit(Request({1}, 1, 2));
  simulated_.Advance(absl::Seconds(100));
  const auto behind = Submit(Request({2}, 1, 2));
  simulated_.Advance(absl::Seconds(100));
  EXPECT_EQ(progress_->StandsStillFor(), absl::Seconds(200));
  gate_.Allow(1);
  ASSERT_TRUE(hung->AwaitTokens(1));
  gate_.Allow(kUnlimited);
  ASSERT_TRUE(hung->Await().ok());
  ASSERT_TRUE(behind->Await().ok());
  ASSERT_TRUE(engine_->Drain(absl::Now() + kPatience));
  EXPECT_EQ(progress_->StandsStillFor(), absl::ZeroDuration());
}

TEST_F(EngineTest, FirstTokensAreTimedOnceARequestFromItsArrival) {
  clock_ = &simulated_;
  StartEngine();
  const auto sink = Submit(Request({1, 2, 3}, 2, 3));
  simulated_.Advance(absl::Seconds(7));
  gate_.Allow(kUnlimited);
  ASSERT_TRUE(sink->Await().ok());
  const std::string text = registry_.Text();
  EXPECT_THAT(text, HasSubstr("rollcall_generator_first_token_seconds_count 1\n"));
  EXPECT_THAT(text, HasSubstr("rollcall_generator_first_token_seconds_sum 7\n"));
}

TEST_F(EngineTest, CancelFreesTheSlotBeforeTheNextStep) {
  scheduler_.max_running_samples = 1;
  StartEngine();
  Engine::RequestId id = 0;
  const auto first = Submit(Request({1}, 1, 500), &id);
  gate_.Allow(3);
  ASSERT_TRUE(first->AwaitTokens(3));
  const auto second = Submit(Request({2}, 1, 2));
  engine_->Cancel(id);
  gate_.Allow(3);  // one that may have been planned before, then two for the second request
  EXPECT_TRUE(second->Await().ok());
  EXPECT_EQ(first->Await().code(), absl::StatusCode::kCancelled);
  EXPECT_LE(engine_->state().engine_steps, 6u);
  EXPECT_LE(first->tokens().size(), 4u);
}

// The step that runs when it is asked for is the last thing that a request may cost.
TEST_F(EngineTest, CancelFreesItsBlocksWhenTheRunningStepEnds) {
  scheduler_.num_blocks = 40;
  StartEngine();
  const uint64_t total = engine_->state().kv_tokens_total;
  Engine::RequestId id = 0;
  const auto gone = Submit(Request({1, 2, 3, 4, 5, 6, 7}, 3, 500), &id);
  const auto stays = Submit(Request({2}, 1, 500));
  gate_.Allow(3);
  ASSERT_TRUE(gone->AwaitTokens(3));
  ASSERT_TRUE(stays->AwaitTokens(2));  // the first step may have begun without it
  gate_.AwaitEntered(4);
  EXPECT_LT(engine_->state().kv_tokens_free, total - 32);
  engine_->Cancel(id);
  EXPECT_FALSE(gone->done());  // its blocks are being written to
  gate_.Allow(1);
  EXPECT_EQ(gone->Await().code(), absl::StatusCode::kCancelled);
  // The next step has begun and waits, and the room is there.
  gate_.AwaitEntered(5);
  EXPECT_EQ(engine_->state().engine_steps, 4u);
  EXPECT_EQ(engine_->state().running_samples, 1u);
  EXPECT_EQ(engine_->state().kv_tokens_free, total - scheduler_.block_tokens);
  EXPECT_FALSE(stays->done());
  const auto text = registry_.Text();
  EXPECT_THAT(text, HasSubstr("rollcall_generator_cancellation_steps_bucket{le=\"0\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("rollcall_generator_cancellation_steps_bucket{le=\"1\"} 1\n"));
}

TEST_F(EngineTest, QueueIsBounded) {
  scheduler_.max_running_samples = 1;
  scheduler_.max_waiting_samples = 3;
  StartEngine();
  const auto running = Submit(Request({1}, 1, 100));
  gate_.Allow(1);
  ASSERT_TRUE(running->AwaitTokens(1));
  Submit(Request({1}, 3, 1));
  const auto refused = engine_->Submit(Request({1}, 1, 1), std::make_shared<CollectingSink>());
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GT(engine_->state().retry_after, absl::ZeroDuration());
}

TEST_F(EngineTest, WhatCanNeverFitIsRefusedAtAdmission) {
  scheduler_.num_blocks = 2;
  StartEngine();
  const auto sink = Submit(Request({1}, 1, 40));
  EXPECT_EQ(sink->Await().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(EngineTest, ServesNothingWithoutWeights) {
  StartEngine(std::nullopt);
  gate_.Allow(kUnlimited);
  EXPECT_EQ(Submit(Request({1}, 1, 1))->Await().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(Swap(Weights(1, 0, 0)).ok());
  EXPECT_TRUE(Submit(Request({1}, 1, 1))->Await().ok());
}

TEST_F(EngineTest, ChecksTheMinimumVersion) {
  StartEngine(Version(2, 5));
  gate_.Allow(kUnlimited);
  const auto ask = [&](const v1::PolicyVersion& version) {
    GenerationRequest request = Request({1}, 1, 1);
    request.min_version = version;
    return Submit(std::move(request))->Await();
  };
  EXPECT_TRUE(ask(Version(2, 5)).ok());
  EXPECT_TRUE(ask(Version(2, 3)).ok());
  EXPECT_THAT(ask(Version(2, 6)).message(), HasSubstr("min_version.step"));
  EXPECT_THAT(ask(Version(1, 5)).message(), HasSubstr("min_version.lineage"));
  v1::PolicyVersion other = Version(2, 5);
  other.set_run_id("other");
  EXPECT_EQ(ask(other).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(EngineTest, SwapBetweenTwoStepsIsSeenInTokensAndSpans) {
  StartEngine();
  const auto sink = Submit(Request({0}, 1, 6));
  gate_.Allow(2);
  ASSERT_TRUE(sink->AwaitTokens(2));
  absl::Notification swapped;
  engine_->SwapWeights(Weights(1, 7, 2), [&](const absl::Status& status) {
    EXPECT_TRUE(status.ok());
    swapped.Notify();
  });
  gate_.Allow(kUnlimited);
  ASSERT_TRUE(sink->Await().ok());
  ASSERT_TRUE(swapped.HasBeenNotified());
  const std::vector<uint32_t> tokens = sink->tokens();
  const v1::SampleEnd end = sink->end();
  ASSERT_EQ(end.version_spans_size(), 2);
  EXPECT_EQ(end.version_spans(0).version().step(), 0u);
  EXPECT_EQ(end.version_spans(1).version().step(), 7u);
  EXPECT_EQ(end.version_spans(0).end(), end.version_spans(1).begin());
  EXPECT_EQ(end.version_spans(1).end(), 6u);
  uint32_t expected = 0;
  for (uint32_t i = 0; i < 6; ++i) {
    expected = (expected + (i < end.version_spans(0).end() ? 1 : 3)) % FakeRunner::kBroken;
    EXPECT_EQ(tokens[i], expected) << i;
  }
  EXPECT_EQ(engine_->state().version->step(), 7u);
}

TEST_F(EngineTest, DrainingSwapWaitsForRunningRequestsAndHoldsNewOnesBack) {
  on_weight_update_ = Engine::OnWeightUpdate::kDrain;
  StartEngine();
  const auto running = Submit(Request({0}, 1, 6));
  gate_.Allow(2);
  ASSERT_TRUE(running->AwaitTokens(2));
  absl::Notification swapped;
  engine_->SwapWeights(Weights(1, 7, 2), [&](const absl::Status& status) {
    EXPECT_TRUE(status.ok());
    swapped.Notify();
  });
  const auto later = Submit(Request({0}, 1, 6));
  Engine::RequestId gone_id = 0;
  const auto gone = Submit(Request({0}, 1, 6), &gone_id);
  gate_.Allow(3);
  // Six tokens are not there yet: nothing has happened to those that came after the swap.
  ASSERT_TRUE(running->AwaitTokens(4));
  EXPECT_FALSE(swapped.HasBeenNotified());
  EXPECT_TRUE(later->tokens().empty());
  engine_->SwapWeights(Weights(1, 8, 3), [](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  });
  engine_->Cancel(gone_id);
  gate_.Allow(kUnlimited);
  ASSERT_TRUE(running->Await().ok());
  ASSERT_TRUE(later->Await().ok());
  EXPECT_EQ(gone->Await().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(swapped.HasBeenNotified());
  EXPECT_THAT(running->tokens(), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(later->tokens(), ElementsAre(3, 6, 9, 12, 0, 3));
  EXPECT_EQ(running->end().version_spans_size(), 1);
  EXPECT_EQ(later->end().version_spans(0).version().step(), 7u);
}

TEST_F(EngineTest, KeptSamplesAreMarkedUntilTheyAreComputedAgain) {
  on_weight_update_ = Engine::OnWeightUpdate::kKeep;
  StartEngine();
  const auto sink = Submit(Request({0}, 1, 6));
  gate_.Allow(2);
  ASSERT_TRUE(sink->AwaitTokens(2));
  engine_->SwapWeights(Weights(1, 7, 2), [](const absl::Status&) {});
  gate_.Allow(kUnlimited);
  ASSERT_TRUE(sink->Await().ok());
  ASSERT_EQ(sink->end().version_spans_size(), 2);
  EXPECT_FALSE(sink->end().version_spans(0).mixed_kv());
  EXPECT_TRUE(sink->end().version_spans(1).mixed_kv());
  const auto fresh = Submit(Request({0}, 1, 6));
  ASSERT_TRUE(fresh->Await().ok());
  EXPECT_FALSE(fresh->end().version_spans(0).mixed_kv());
}

TEST_F(EngineTest, AStoppedEngineLosesNoWaitingSwapAndNoHeldRequest) {
  on_weight_update_ = Engine::OnWeightUpdate::kDrain;
  StartEngine();
  const auto running = Submit(Request({0}, 1, 50));
  gate_.Allow(1);
  ASSERT_TRUE(running->AwaitTokens(1));
  absl::Notification swapped;
  engine_->SwapWeights(Weights(1, 7, 2), [&](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    swapped.Notify();
  });
  gate_.Allow(2);
  ASSERT_TRUE(running->AwaitTokens(3));
  const auto held = Submit(Request({0}, 1, 50));
  std::thread stopper([this] { engine_->Stop(); });
  // Until it is told: then nothing is taken any more.
  while (!absl::IsUnavailable(
      engine_->Submit(Request({0}, 1, 50), std::make_shared<CollectingSink>()).status())) {
    continue;
  }
  gate_.Allow(kUnlimited);
  stopper.join();
  EXPECT_TRUE(swapped.HasBeenNotified());
  EXPECT_TRUE(running->done());
  EXPECT_TRUE(held->done());
}

TEST_F(EngineTest, SwapEndsRequestsThatAskedForAnotherLineage) {
  StartEngine();
  GenerationRequest bound = Request({0}, 1, 50);
  bound.min_version = Version(1, 0);
  const auto bound_sink = Submit(std::move(bound));
  const auto free_sink = Submit(Request({0}, 1, 50));
  gate_.Allow(2);
  ASSERT_TRUE(free_sink->AwaitTokens(2));
  engine_->SwapWeights(Weights(2, 0, 0), [](const absl::Status&) {});
  gate_.Allow(kUnlimited);
  EXPECT_EQ(bound_sink->Await().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(free_sink->Await().ok());
}

TEST_F(EngineTest, FailedSwapLeavesTheEngineWithoutWeights) {
  StartEngine();
  const auto sink = Submit(Request({0}, 1, 50));
  gate_.Allow(1);
  ASSERT_TRUE(sink->AwaitTokens(1));
  auto broken = Weights(1, 1, 0);
  broken->tensors.clear();
  absl::Notification swapped;
  engine_->SwapWeights(broken, [&](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    swapped.Notify();
  });
  gate_.Allow(kUnlimited);
  ASSERT_TRUE(swapped.WaitForNotificationWithTimeout(kPatience));
  EXPECT_EQ(sink->Await().code(), absl::StatusCode::kInternal);
  EXPECT_FALSE(engine_->state().version.has_value());
  EXPECT_EQ(Submit(Request({1}, 1, 1))->Await().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(EngineTest, FailedStepEndsItsRequestsAndNoOthers) {
  StartEngine();
  gate_.Allow(kUnlimited);
  EXPECT_EQ(Submit(Request({FakeRunner::kBroken}, 2, 5))->Await().code(),
            absl::StatusCode::kInternal);
  EXPECT_TRUE(Submit(Request({1}, 2, 5))->Await().ok());
  gate_.set_result(absl::ResourceExhaustedError("no memory"));
  EXPECT_EQ(Submit(Request({1}, 2, 5))->Await().code(), absl::StatusCode::kResourceExhausted);
  gate_.set_result(absl::OkStatus());
  EXPECT_TRUE(Submit(Request({1}, 2, 5))->Await().ok());
  EXPECT_TRUE(engine_->Drain(absl::Now() + kPatience));
  EXPECT_EQ(engine_->state().kv_tokens_free, 64u * 16u);
}

TEST_F(EngineTest, PrefixesAreContinuedAndMustNotEndTheCompletion) {
  StartEngine();
  gate_.Allow(kUnlimited);
  GenerationRequest request = Request({1}, 1, 5);
  request.samples[0].prefix = {2, 3};
  auto sink = std::make_shared<CollectingSink>();
  sink->set_first_offset(2);
  ASSERT_TRUE(engine_->Submit(request, sink).ok());
  ASSERT_TRUE(sink->Await().ok());
  EXPECT_THAT(sink->tokens(), ElementsAre(4, 5, 6));
  EXPECT_EQ(sink->end().num_tokens(), 5u);
  EXPECT_EQ(sink->end().version_spans(0).begin(), 2u);
  request.stop.token_ids = {2};
  EXPECT_THAT(engine_->Submit(request, sink).status().message(), HasSubstr("prefix_token_ids"));
}

TEST_F(EngineTest, DrainWaitsForTheLastRequestAndStopEndsTheRest) {
  StartEngine();
  const auto sink = Submit(Request({1}, 1, 3));
  EXPECT_FALSE(engine_->Drain(absl::InfinitePast()));
  EXPECT_EQ(engine_->Submit(Request({1}, 1, 1), sink).status().code(),
            absl::StatusCode::kUnavailable);
  gate_.Allow(3);
  EXPECT_TRUE(engine_->Drain(absl::Now() + kPatience));
  EXPECT_TRUE(sink->Await().ok());

  StartEngine();
  const auto cut = Submit(Request({1}, 1, 100));
  gate_.Allow(kUnlimited);
  engine_->Stop();
  const absl::Status status = cut->Await();
  EXPECT_TRUE(status.ok() || absl::IsUnavailable(status)) << status;
}

TEST_F(EngineTest, ReportsItsMetrics) {
  StartEngine();
  gate_.Allow(kUnlimited);
  ASSERT_TRUE(Submit(Request({1, 2, 3}, 2, 4))->Await().ok());
  ASSERT_TRUE(engine_->Drain(absl::Now() + kPatience));
  const std::string text = registry_.Text();
  EXPECT_THAT(text, HasSubstr("rollcall_generator_sampled_tokens_total 8"));
  EXPECT_THAT(text, HasSubstr("rollcall_generator_prefill_tokens_total 3"));
  EXPECT_THAT(text, HasSubstr("rollcall_generator_decode_tokens_total 6"));
  EXPECT_THAT(text, HasSubstr("rollcall_generator_requests_total{outcome=\"ok\"} 1"));
}

}  // namespace
}  // namespace rollcall::generator
