#include "services/learner/rollout/coordinator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>

#include "absl/time/clock.h"
#include "common/base/philox.h"
#include "services/learner/rollout/evaluator.h"
#include "services/learner/rollout/fake_services.h"

namespace rollcall::learner {
namespace {

using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Lt;

constexpr uint32_t kSamples = 3;
constexpr uint32_t kPrompts = 4;

// A learner's rollout side over two fake generators, a verifier and a reference.
class CoordinatorTest : public ::testing::Test {
 protected:
  CoordinatorTest()
      : clock_(50),
        generator_servers_{FakeServer(&generators_[0]), FakeServer(&generators_[1])},
        verifier_server_(&verifier_),
        reference_server_(&reference_),
        pool_({"gen-a", "gen-b"}),
        folder_(::testing::TempDir() + "/coordinator_" +
                ::testing::UnitTest::GetInstance()->current_test_info()->name() + "_" +
                std::to_string(getpid())) {
    std::filesystem::remove_all(folder_);
    options_.run_id = "run";
    options_.group.num_samples = kSamples;
    options_.group.sampling.set_temperature(1);
    options_.group.sampling.set_max_tokens(16);
    options_.group.min_valid_samples = 2;
    options_.group.with_reference = true;
    options_.total_steps = 4;
    options_.prompts_per_step = kPrompts;
    options_.stall_timeout = absl::Hours(1);
  }
  ~CoordinatorTest() override {
    if (runner_ != nullptr) runner_->Stop();
    std::filesystem::remove_all(folder_);
  }

  void Start(uint32_t max_attempts = 5) {
    RolloutServices services;
    for (const FakeServer& server : generator_servers_) {
      services.generators.push_back(server.channel());
    }
    services.reward = verifier_server_.channel();
    services.reward_address = "reward";
    services.references = {reference_server_.channel()};
    services.reference_addresses = {"reference"};
    runner_ = std::make_unique<GroupRunner>(
        GroupRunnerOptions{.max_attempts = max_attempts,
                           .vocab_size = kFakeVocab,
                           .generate_timeout = absl::Milliseconds(300),
                           .score_timeout = absl::Milliseconds(300),
                           .logprob_timeout = absl::Milliseconds(300)},
        services, &pool_, &versions_,
        [](std::span<const uint32_t> ids) {
          return absl::StatusOr<std::string>(std::to_string(ids.size()));
        },
        // What the publisher's link would find: the generator serves on.
        [this](size_t index) { pool_.MarkServing(index, step_); }, &clock_);
    pool_.OnServing([this] { runner_->Poke(); });
    Publish(0);
    coordinator_ = std::make_unique<RolloutCoordinator>(
        options_, [this](uint64_t id) { return Prompt(id); }, runner_.get(), &versions_,
        ledger_.get(), &clock_);
  }

  absl::StatusOr<PromptDraw> Prompt(uint64_t id) const {
    PromptDraw draw;
    draw.prompt.set_row(id);
    draw.prompt.add_token_ids(static_cast<uint32_t>(id % kFakeVocab));
    draw.prompt.set_text("prompt");
    if (too_long_.contains(id)) draw.too_long = "9 tokens";
    return draw;
  }

  void Publish(uint64_t step) {
    versions_.Add(FakeVersion(step));
    step_ = step;
    for (size_t i = 0; i < 2; ++i) {
      generators_[i].SetStep(step);
      pool_.MarkServing(i, step);
    }
  }

  // As the main loop does after training.
  absl::Status Trained(uint64_t step) {
    Publish(step);
    return coordinator_->StepTrained(step);
  }

  // The sequences that a group must come out as, whoever failed on the way.
  static void ExpectGroup(const TrainBatch& batch, uint64_t id) {
    uint32_t samples = 0;
    for (const TrainSequence& sequence : batch.sequences) {
      if (sequence.group_id != id) continue;
      ++samples;
      const uint32_t length = FakeLength(id, sequence.sample_index);
      ASSERT_EQ(sequence.token_ids.size(), 1 + length);
      std::vector<uint32_t> completion;
      for (uint32_t p = 0; p < length; ++p) {
        const uint32_t token = FakeToken(id, sequence.sample_index, p);
        completion.push_back(token);
        EXPECT_EQ(sequence.token_ids[1 + p], token);
        EXPECT_EQ(sequence.behavior_logprobs[1 + p], FakeLogProb(token));
        EXPECT_EQ(sequence.reference_logprobs[1 + p], 2 * FakeLogProb(token));
        EXPECT_EQ(sequence.loss_mask[1 + p], 1);
      }
      EXPECT_EQ(sequence.loss_mask[0], 0);
      EXPECT_EQ(sequence.reward.value_or(FakeReward(completion)), FakeReward(completion));
    }
    EXPECT_EQ(samples, kSamples);
  }

  std::vector<uint64_t> AllGroupsAsked() const {
    std::vector<uint64_t> groups = generators_[0].groups();
    for (const uint64_t id : generators_[1].groups()) groups.push_back(id);
    return groups;
  }

  FastClock clock_;
  std::array<FakeGenerator, 2> generators_;
  FakeVerifier verifier_;
  FakeReference reference_;
  std::array<FakeServer, 2> generator_servers_;
  FakeServer verifier_server_;
  FakeServer reference_server_;
  GeneratorPool pool_;
  PublishedVersions versions_;
  std::atomic<uint64_t> step_ = 0;
  std::set<uint64_t> too_long_;
  const std::string folder_;
  CoordinatorOptions options_;
  std::unique_ptr<Ledger> ledger_;
  std::unique_ptr<GroupRunner> runner_;
  std::unique_ptr<RolloutCoordinator> coordinator_;
};

TEST_F(CoordinatorTest, ABatchIsTheStepsGroupsInOrder) {
  Start();
  const auto batch = coordinator_->Next(1);
  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_THAT(batch->group_ids, ElementsAre(0, 1, 2, 3));
  ASSERT_EQ(batch->sequences.size(), kPrompts * kSamples);
  for (size_t i = 0; i < batch->sequences.size(); ++i) {
    EXPECT_EQ(batch->sequences[i].group_id, i / kSamples);
    EXPECT_EQ(batch->sequences[i].sample_index, i % kSamples);
    EXPECT_TRUE(batch->sequences[i].on_policy);
  }
  for (uint64_t id = 0; id < kPrompts; ++id) ExpectGroup(*batch, id);
  ASSERT_TRUE(Trained(1).ok());
  EXPECT_EQ(coordinator_->counts().trained(), kPrompts);
  EXPECT_EQ(coordinator_->next_group_id(), kPrompts);
}

TEST_F(CoordinatorTest, SynchronousRunsIssueNothingBeforeTheStepBeforeIsTrained) {
  Start();
  ASSERT_TRUE(coordinator_->Next(1).ok());
  EXPECT_THAT(AllGroupsAsked(), Each(Lt(kPrompts)));
  EXPECT_EQ(coordinator_->counts().issued(), kPrompts);
  ASSERT_TRUE(Trained(1).ok());
  const auto batch = coordinator_->Next(2);
  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_THAT(batch->group_ids, ElementsAre(4, 5, 6, 7));
  EXPECT_TRUE(batch->sequences[0].on_policy);
  EXPECT_EQ(batch->metrics.at("rollout/staleness"), 0);
}

TEST_F(CoordinatorTest, StalenessLetsGroupsRunAhead) {
  options_.max_staleness = 1;
  Start();
  ASSERT_TRUE(coordinator_->Next(1).ok());
  EXPECT_EQ(coordinator_->counts().issued(), 2 * kPrompts);
  ASSERT_TRUE(Trained(1).ok());
  EXPECT_EQ(coordinator_->counts().issued(), 3 * kPrompts);
  ASSERT_TRUE(coordinator_->Next(2).ok());
  ASSERT_TRUE(Trained(2).ok());
  ASSERT_TRUE(coordinator_->Next(3).ok());
  ASSERT_TRUE(Trained(3).ok());
  // Never past the last step.
  EXPECT_EQ(coordinator_->counts().issued(), 4 * kPrompts);
  ASSERT_TRUE(coordinator_->Next(4).ok());
  EXPECT_FALSE(coordinator_->Next(4 + 1).ok());
}

TEST_F(CoordinatorTest, ADroppedGroupLeavesItsBatchSmaller) {
  verifier_.SetPlan(
      [](uint64_t, uint64_t group) { return group == 2 ? Fault::kUnavailable : Fault::kNone; });
  too_long_ = {0};
  Start(2);
  const auto batch = coordinator_->Next(1);
  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_THAT(batch->group_ids, ElementsAre(1, 3));
  EXPECT_EQ(batch->metrics.at("rollout/dropped_groups"), 2);
  ASSERT_TRUE(Trained(1).ok());
  EXPECT_EQ(coordinator_->counts().dropped().at("verifier_failed"), 1u);
  EXPECT_EQ(coordinator_->counts().dropped().at("prompt_too_long"), 1u);
  EXPECT_EQ(coordinator_->settled().trained(), 2u);
  EXPECT_EQ(coordinator_->settled().issued(), 4u);
}

TEST_F(CoordinatorTest, ABatchWithoutAnyGroupIsAnError) {
  for (FakeGenerator& generator : generators_) {
    generator.SetPlan([](uint64_t, uint64_t) { return Fault::kGarbage; });
  }
  Start(2);
  const auto batch = coordinator_->Next(1);
  EXPECT_EQ(batch.status().code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(batch.status().message()), HasSubstr("generation_failed"));
  EXPECT_THAT(std::string(batch.status().message()), HasSubstr("logprobs[0]"));
  EXPECT_EQ(coordinator_->counts().in_flight(), 0u);
}

TEST_F(CoordinatorTest, AnInterruptedCompletionIsCarriedOnByAnyGenerator) {
  generators_[0].SetPlan([](uint64_t, uint64_t) { return Fault::kCutOff; });
  Start();
  const auto batch = coordinator_->Next(1);
  ASSERT_TRUE(batch.ok()) << batch.status();
  for (uint64_t id = 0; id < kPrompts; ++id) ExpectGroup(*batch, id);
  EXPECT_GT(generators_[1].prefix_tokens(), 0u);
  EXPECT_EQ(generators_[0].wrong_prefixes() + generators_[1].wrong_prefixes(), 0u);
}

TEST_F(CoordinatorTest, AHangingGeneratorCostsItsDeadlineAndNoGroup) {
  generators_[0].SetPlan(
      [](uint64_t call, uint64_t) { return call < 2 ? Fault::kHang : Fault::kNone; });
  Start();
  const auto batch = coordinator_->Next(1);
  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_EQ(batch->group_ids.size(), kPrompts);
}

TEST_F(CoordinatorTest, AStallNamesWhatIsWaitedFor) {
  options_.stall_timeout = absl::Seconds(10);  // 0.2 s of real time
  Start();
  pool_.MarkUnusable(0, "connection refused");
  pool_.MarkUnusable(1, "no weights");
  const auto batch = coordinator_->Next(1);
  EXPECT_EQ(batch.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(batch.status().message()), HasSubstr("gen-a: connection refused"));
  EXPECT_THAT(std::string(batch.status().message()), HasSubstr("4 groups wait for a generator"));
}

TEST_F(CoordinatorTest, StopWakesNextAndDropsWhatIsInFlight) {
  for (FakeGenerator& generator : generators_) {
    generator.SetPlan([](uint64_t, uint64_t) { return Fault::kHang; });
  }
  Start();
  std::thread stopper([this] {
    absl::Mutex mutex;
    absl::MutexLock lock(&mutex);
    const auto asked = [this] { return AllGroupsAsked().size() == kPrompts; };
    while (!mutex.AwaitWithTimeout(absl::Condition(&asked), absl::Milliseconds(5))) {
    }
    coordinator_->Stop(absl::CancelledError("SIGTERM"));
  });
  EXPECT_EQ(coordinator_->Next(1).status().code(), absl::StatusCode::kCancelled);
  stopper.join();
  EXPECT_EQ(coordinator_->counts().in_flight(), kPrompts);
  runner_->Stop();
  EXPECT_EQ(coordinator_->counts().in_flight(), 0u);
  EXPECT_EQ(coordinator_->counts().dropped().at("shutdown"), kPrompts);
}

TEST_F(CoordinatorTest, TheLedgerTellsEveryOutcomeAndWhatMayBeUsedAgain) {
  v1::LineageStart start;
  start.set_lineage(1);
  start.set_content_hash("content");
  ledger_ = *Ledger::Open(folder_, start);
  verifier_.SetPlan(
      [](uint64_t, uint64_t group) { return group == 5 ? Fault::kUnavailable : Fault::kNone; });
  Start(1);
  ASSERT_TRUE(coordinator_->Next(1).ok());
  ASSERT_TRUE(Trained(1).ok());
  ASSERT_TRUE(coordinator_->Next(2).ok());
  ASSERT_TRUE(ledger_->Flush().ok());

  const auto index = wire::RolloutIndex::Read(folder_);
  ASSERT_TRUE(index.ok()) << index.status();
  ASSERT_EQ(index->entries().size(), 8u);
  for (const auto& [key, entry] : index->entries()) {
    if (key.second < 4) {
      EXPECT_EQ(entry.trained_step, 1u);
      EXPECT_TRUE(entry.outcome.has_trained());
    } else {
      EXPECT_EQ(entry.outcome.has_dropped(), key.second == 5) << key.second;
    }
  }

  // A resume at step 1 needs groups 4, 6 and 7 again, under the same weights and configuration
  // only.
  const std::string weights = FakeVersion(1).manifest_hash();
  auto reusable = LoadReusableGroups(folder_, 4, "content", weights);
  EXPECT_EQ(reusable.size(), 3u);
  EXPECT_TRUE(reusable.contains(4) && reusable.contains(6) && reusable.contains(7));
  EXPECT_TRUE(LoadReusableGroups(folder_, 4, "other", weights).empty());
  EXPECT_TRUE(LoadReusableGroups(folder_, 4, "content", "other").empty());

  // And a coordinator that is given them does not make them again.
  CoordinatorOptions options = options_;
  options.trained_steps = 1;
  options.first_group_id = 4;
  options.settled = coordinator_->settled();
  options.reusable = std::move(reusable);
  const size_t asked = AllGroupsAsked().size();
  verifier_.SetPlan({});
  RolloutCoordinator resumed(
      options, [this](uint64_t id) { return Prompt(id); }, runner_.get(), &versions_, nullptr,
      &clock_);
  const auto batch = resumed.Next(2);
  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_THAT(batch->group_ids, ElementsAre(4, 5, 6, 7));
  for (const uint64_t id : batch->group_ids) ExpectGroup(*batch, id);
  EXPECT_EQ(AllGroupsAsked().size(), asked + 1);
  EXPECT_EQ(resumed.counts().issued(), 8u);
}

TEST_F(CoordinatorTest, EvaluationRepeatsNoIdAndLeavesTheBooksAlone) {
  Start();
  EvaluatorOptions options;
  options.group = options_.group;
  options.group.min_valid_samples = 1;
  std::vector<v1::PromptRow> prompts(3, Prompt(0)->prompt);
  Evaluator evaluator(options, prompts, runner_.get(), nullptr, &clock_);
  const auto first = evaluator.Run(2);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->at("eval/groups"), 3);
  double sum = 0;
  for (uint64_t id = 6; id < 9; ++id) {
    for (uint32_t i = 0; i < kSamples; ++i) {
      std::vector<uint32_t> tokens;
      for (uint32_t p = 0; p < FakeLength(id, i); ++p) tokens.push_back(FakeToken(id, i, p));
      sum += FakeReward(tokens);
    }
  }
  EXPECT_NEAR(first->at("eval/reward/mean"), sum / 9, 1e-9);
  EXPECT_EQ(coordinator_->counts().issued(), 0u);
  verifier_.SetPlan(
      [](uint64_t, uint64_t group) { return group == 9 ? Fault::kUnavailable : Fault::kNone; });
  const auto second = evaluator.Run(3);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->at("eval/dropped_groups"), 1);
}

TEST_F(CoordinatorTest, DynamicSamplingFillsTheBatchWithTheNextGroupsThatVary) {
  options_.dynamic_sampling = true;
  verifier_.SetConstant([](uint64_t group) { return group == 1 || group == 2 || group == 5; });
  for (FakeGenerator& generator : generators_) {  // whoever comes first changes nothing
    generator.SetPlan(
        [](uint64_t call, uint64_t) { return call % 3 == 0 ? Fault::kCutOff : Fault::kNone; });
  }
  v1::LineageStart start;
  start.set_lineage(1);
  start.set_content_hash("content");
  ledger_ = *Ledger::Open(folder_, start);
  Start();
  const auto batch = coordinator_->Next(1);
  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_THAT(batch->group_ids, ElementsAre(0, 3, 4, 6));
  for (const uint64_t id : batch->group_ids) ExpectGroup(*batch, id);
  EXPECT_EQ(batch->metrics.at("rollout/filtered_groups"), 3);
  EXPECT_THAT(AllGroupsAsked(), Each(Lt(7u)));
  ASSERT_TRUE(Trained(1).ok());
  EXPECT_EQ(coordinator_->settled().filtered(), 3u);
  EXPECT_EQ(coordinator_->settled().trained(), 4u);
  EXPECT_EQ(coordinator_->settled().issued(), 7u);
  EXPECT_EQ(coordinator_->next_group_id(), 7u);
  EXPECT_THAT(coordinator_->Next(2)->group_ids, ElementsAre(7, 8, 9, 10));

  // Started again at the beginning, all that was made is used and judged once more.
  ASSERT_TRUE(ledger_->Flush().ok());
  CoordinatorOptions options = options_;
  options.reusable = LoadReusableGroups(folder_, 0, "content", FakeVersion(0).manifest_hash());
  EXPECT_EQ(options.reusable.size(), 7u);
  const size_t asked = AllGroupsAsked().size();
  RolloutCoordinator resumed(
      options, [this](uint64_t id) { return Prompt(id); }, runner_.get(), &versions_, ledger_.get(),
      &clock_);
  EXPECT_THAT(resumed.Next(1)->group_ids, ElementsAre(0, 3, 4, 6));
  EXPECT_EQ(resumed.counts().filtered(), 3u);
  EXPECT_EQ(AllGroupsAsked().size(), asked);
}

TEST_F(CoordinatorTest, DynamicSamplingRunsAheadWithTheSameBatches) {
  options_.dynamic_sampling = true;
  options_.max_staleness = 2;
  options_.total_steps = 3;
  verifier_.SetConstant([](uint64_t group) { return group % 3 == 1; });
  Start();
  std::vector<uint64_t> trained;
  for (uint64_t step = 1; step <= 3; ++step) {
    const auto batch = coordinator_->Next(step);
    ASSERT_TRUE(batch.ok()) << batch.status();
    EXPECT_EQ(batch->group_ids.size(), kPrompts);
    trained.insert(trained.end(), batch->group_ids.begin(), batch->group_ids.end());
    ASSERT_TRUE(Trained(step).ok());
  }
  EXPECT_THAT(trained, ElementsAre(0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17));
  EXPECT_EQ(coordinator_->counts().issued(), 18u);
  EXPECT_EQ(coordinator_->counts().filtered(), 6u);
  EXPECT_EQ(coordinator_->counts().in_flight(), 0u);
}

TEST_F(CoordinatorTest, DynamicSamplingGivesUpAtItsBound) {
  options_.dynamic_sampling = true;
  options_.max_sampling_rounds = 3;
  verifier_.SetConstant([](uint64_t group) { return group != 5; });
  Start();
  const auto batch = coordinator_->Next(1);
  EXPECT_EQ(batch.status().code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(batch.status().message()),
              HasSubstr("issued 12 groups (3 rounds of 4, algorithm.max_sampling_rounds), and in "
                        "11 of them all samples had the same reward"));
  EXPECT_EQ(coordinator_->counts().issued(), 12u);
  EXPECT_EQ(coordinator_->counts().filtered(), 11u);
}

TEST_F(CoordinatorTest, AGreedyCompletionGoesWithEachGroup) {
  options_.greedy_baseline = true;
  verifier_.SetPlan(
      [](uint64_t, uint64_t group) { return group == 2 ? Fault::kUnavailable : Fault::kNone; });
  Start(2);
  const auto batch = coordinator_->Next(1);
  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_THAT(batch->group_ids, ElementsAre(0, 1, 3));
  for (const TrainSequence& sequence : batch->sequences) {
    // The fake's greedy completion is its first sample.
    std::vector<uint32_t> tokens;
    const uint32_t length = FakeLength(sequence.group_id, 0);
    for (uint32_t p = 0; p < length; ++p) tokens.push_back(FakeToken(sequence.group_id, 0, p));
    EXPECT_EQ(sequence.greedy_reward, FakeReward(tokens));
    EXPECT_EQ(sequence.greedy_tokens, length);
  }
  ASSERT_TRUE(Trained(1).ok());
  EXPECT_EQ(coordinator_->counts().dropped().at("verifier_failed"), 1u);
  EXPECT_EQ(coordinator_->settled().issued(), 4u);
}

// Under random faults of every service each group ends exactly once, what survives is bit for bit
// what an undisturbed run would have given, and the books balance at every moment.
TEST_F(CoordinatorTest, RandomFaultsChangeNoSurvivorAndNoSum) {
  std::atomic<uint64_t> draws = 0;
  const auto plan = [&draws](uint64_t, uint64_t) {
    PhiloxStream random(11, draws.fetch_add(1));
    if (random.Uniform() > 0.35) return Fault::kNone;
    constexpr std::array<Fault, 5> kFaults = {Fault::kUnavailable, Fault::kQueueFull,
                                              Fault::kCutOff, Fault::kGarbage, Fault::kPartial};
    return kFaults[random.Below(kFaults.size())];
  };
  for (FakeGenerator& generator : generators_) generator.SetPlan(plan);
  verifier_.SetPlan(plan);
  reference_.SetPlan(plan);
  options_.max_staleness = 1;
  options_.prompts_per_step = 24;
  std::atomic<int> unbalanced = 0;
  options_.observe_counts = [&unbalanced](const v1::RolloutCounts& counts) {
    uint64_t sum = counts.trained() + counts.filtered() + counts.in_flight();
    for (const auto& [reason, count] : counts.dropped()) sum += count;
    if (sum != counts.issued()) ++unbalanced;
  };
  Start(3);
  uint64_t trained = 0;
  uint64_t dropped = 0;
  for (uint64_t step = 1; step <= options_.total_steps; ++step) {
    const auto batch = coordinator_->Next(step);
    ASSERT_TRUE(batch.ok()) << batch.status();
    EXPECT_TRUE(std::is_sorted(batch->group_ids.begin(), batch->group_ids.end()));
    for (const uint64_t id : batch->group_ids) {
      EXPECT_EQ(id / 24 + 1, step);
      ExpectGroup(*batch, id);
    }
    trained += batch->group_ids.size();
    dropped += static_cast<uint64_t>(batch->metrics.at("rollout/dropped_groups"));
    ASSERT_TRUE(Trained(step).ok());
  }
  const v1::RolloutCounts counts = coordinator_->counts();
  EXPECT_EQ(counts.issued(), 96u);
  EXPECT_EQ(counts.trained(), trained);
  EXPECT_EQ(trained + dropped, 96u);
  EXPECT_EQ(counts.in_flight(), 0u);
  EXPECT_EQ(unbalanced, 0);
  EXPECT_EQ(generators_[0].wrong_prefixes() + generators_[1].wrong_prefixes(), 0u);
  EXPECT_GT(draws, 300u);  // the faults did happen
}

}  // namespace
}  // namespace rollcall::learner
