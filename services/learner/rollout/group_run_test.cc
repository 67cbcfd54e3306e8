#include "services/learner/rollout/group_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace rollcall::learner {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Call = GroupRun::Call;

constexpr uint32_t kAttempts = 3;

v1::PolicyVersion Version() {
  v1::PolicyVersion version;
  version.set_run_id("run");
  version.set_lineage(1);
  version.set_manifest_hash("h");
  return version;
}

class GroupRunTest : public ::testing::Test {
 protected:
  GroupRunTest() { versions_.Add(Version()); }

  GroupRun Make(uint32_t samples = 2, bool with_reference = false, uint32_t min_valid = 2) {
    GroupSpec spec;
    spec.group_id = 7;
    spec.run_seed = 1;
    spec.prompt.add_token_ids(3);
    spec.prompt.add_token_ids(4);
    spec.prompt.set_text("q");
    spec.num_samples = samples;
    spec.sampling.set_temperature(1);
    spec.sampling.set_max_tokens(8);
    spec.min_valid_samples = min_valid;
    spec.with_reference = with_reference;
    return GroupRun(spec, kAttempts, 50, &versions_, [](std::span<const uint32_t> ids) {
      return absl::StatusOr<std::string>(std::string(ids.size(), 'x'));
    });
  }

  // Delivers `tokens` tokens of every sample in the open stream, and their ends when `ends`.
  static void Deliver(GroupRun& run, uint32_t tokens, bool ends) {
    v1::GenerateResponse message;
    *message.mutable_header()->mutable_version() = Version();
    for (uint32_t i = 0; i < run.spec().num_samples; ++i) {
      const auto have = static_cast<uint32_t>(run.assembly().samples()[i].token_ids.size());
      v1::SampleDelta* delta = message.add_deltas();
      delta->set_index(i);
      delta->set_offset(have);
      for (uint32_t t = have; t < tokens; ++t) {
        delta->add_token_ids(t);
        delta->add_logprobs(-1);
      }
      if (!ends) continue;
      v1::SampleEnd* end = message.add_ends();
      end->set_index(i);
      end->set_num_tokens(tokens);
      end->set_finish_reason(v1::FINISH_REASON_LENGTH);
      v1::VersionSpan* span = end->add_version_spans();
      span->set_begin(have);
      span->set_end(tokens);
      *span->mutable_version() = Version();
    }
    const absl::Status status = run.assembly().OnMessage(message);
    ASSERT_TRUE(status.ok()) << status;
  }

  static void Generate(GroupRun& run) {
    run.MakeGenerateRequest(Version());
    Deliver(run, 4, true);
    const auto actions = run.OnGenerateDone({absl::OkStatus(), {}}, false);
    ASSERT_FALSE(actions.empty());
    ASSERT_EQ(actions[0].call, Call::kScore);
  }

  static v1::ScoreResponse Scores(const std::vector<double>& values) {
    v1::ScoreResponse response;
    v1::GroupResult* group = response.add_groups();
    group->set_group_id(7);
    for (uint32_t i = 0; i < values.size(); ++i) {
      group->add_samples()->set_index(i);
      group->mutable_samples(static_cast<int>(i))->mutable_score()->set_value(values[i]);
    }
    return response;
  }

  static v1::LogProbResponse References(int sequences, int tokens, float value = -2) {
    v1::LogProbResponse response;
    for (int i = 0; i < sequences; ++i) {
      v1::SequenceLogProbs* sequence = response.add_sequences();
      for (int t = 0; t < tokens; ++t) sequence->add_logprobs(value);
    }
    return response;
  }

  PublishedVersions versions_;
};

TEST_F(GroupRunTest, WithoutAScoreTheReferenceIsAllThatIsAsked) {
  GroupSpec spec = Make(2, true).spec();
  spec.with_score = false;
  const auto decode = [](std::span<const uint32_t>) { return absl::StatusOr<std::string>("x"); };
  GroupRun run(spec, kAttempts, 50, &versions_, decode);
  run.MakeGenerateRequest(Version());
  Deliver(run, 4, true);
  const auto actions = run.OnGenerateDone({absl::OkStatus(), {}}, false);
  ASSERT_EQ(actions.size(), 1u);
  EXPECT_EQ(actions[0].call, Call::kReference);
  EXPECT_FALSE(run.finished());
  run.OnReferenceDone({absl::OkStatus(), {}}, References(2, 4));
  ASSERT_TRUE(run.finished());
  const v1::Group group = run.TakeGroup();
  EXPECT_TRUE(group.outcome().has_finished());
  EXPECT_TRUE(group.trajectories(1).reward().has_value());
  EXPECT_EQ(group.trajectories(1).reward().value(), 0);
  EXPECT_EQ(group.trajectories(1).reward().verifiers_size(), 0);

  spec.with_reference = false;
  GroupRun alone(spec, kAttempts, 50, &versions_, decode);
  alone.MakeGenerateRequest(Version());
  Deliver(alone, 4, true);
  EXPECT_TRUE(alone.OnGenerateDone({absl::OkStatus(), {}}, false).empty());
  EXPECT_TRUE(alone.finished());
}

TEST_F(GroupRunTest, GoodServicesMakeAFinishedGroup) {
  GroupRun run = Make(2, true);
  Generate(run);
  EXPECT_EQ(run.MakeScoreRequest().groups(0).samples(1).text(), "xxxx");
  // Data without messages: the prompt's text is what the user said.
  EXPECT_EQ(run.MakeScoreRequest().groups(0).prompt_messages(0).content(), "q");
  EXPECT_EQ(run.MakeReferenceRequest().sequences(0).score_from(), 2u);
  run.OnScoreDone({absl::OkStatus(), {}}, Scores({1, 0}));
  EXPECT_FALSE(run.finished());
  run.OnReferenceDone({absl::OkStatus(), {}}, References(2, 4));
  ASSERT_TRUE(run.finished());
  const v1::Group group = run.TakeGroup();
  EXPECT_TRUE(group.outcome().has_finished());
  ASSERT_EQ(group.trajectories_size(), 2);
  EXPECT_EQ(group.trajectories(0).reward().value(), 1);
  EXPECT_EQ(group.trajectories(1).segments(0).token_ids_size(), 2);
  EXPECT_EQ(group.trajectories(1).segments(1).reference_logprobs_size(), 4);
  EXPECT_EQ(run.faults(), 0u);
}

TEST_F(GroupRunTest, AnInterruptedStreamIsTriedAgainWithWhatItDelivered) {
  GroupRun run = Make();
  run.MakeGenerateRequest(Version());
  Deliver(run, 3, false);
  const auto actions = run.OnGenerateDone({absl::UnavailableError("reset"), {}}, false);
  ASSERT_EQ(actions.size(), 1u);
  EXPECT_EQ(actions[0].call, Call::kGenerate);
  EXPECT_EQ(actions[0].delay, absl::Milliseconds(100));
  const v1::GenerateRequest request = run.MakeGenerateRequest(Version());
  ASSERT_EQ(request.samples_size(), 2);
  EXPECT_THAT(request.samples(1).prefix_token_ids(), ElementsAre(0, 1));
}

TEST_F(GroupRunTest, AStreamThatLostOnlyItsEndIsComplete) {
  GroupRun run = Make();
  run.MakeGenerateRequest(Version());
  Deliver(run, 4, true);
  const auto actions = run.OnGenerateDone({absl::UnavailableError("reset"), {}}, false);
  ASSERT_EQ(actions.size(), 1u);
  EXPECT_EQ(actions[0].call, Call::kScore);
}

TEST_F(GroupRunTest, GenerationThatKeepsFailingDropsTheGroup) {
  GroupRun run = Make();
  for (uint32_t i = 1; i < kAttempts; ++i) {
    run.MakeGenerateRequest(Version());
    ASSERT_EQ(run.OnGenerateDone({absl::InternalError("bug"), {}}, false).size(), 1u);
  }
  run.MakeGenerateRequest(Version());
  EXPECT_TRUE(run.OnGenerateDone({absl::InternalError("bug"), {}}, false).empty());
  ASSERT_TRUE(run.finished());
  const v1::Group group = run.TakeGroup();
  EXPECT_EQ(group.outcome().dropped().reason(), kGenerationFailed);
  EXPECT_THAT(group.outcome().dropped().detail(), HasSubstr("bug"));
}

TEST_F(GroupRunTest, BackPressureAndLostWeightsUseUpNoAttempt) {
  GroupRun run = Make();
  for (int i = 0; i < 20; ++i) {
    run.MakeGenerateRequest(Version());
    const auto full =
        run.OnGenerateDone({absl::ResourceExhaustedError("full"), absl::Milliseconds(700)}, false);
    ASSERT_EQ(full.size(), 1u);
    EXPECT_EQ(full[0].delay, absl::Milliseconds(700));
    run.MakeGenerateRequest(Version());
    ASSERT_EQ(run.OnGenerateDone({absl::FailedPreconditionError("no weights"), {}}, false).size(),
              1u);
  }
  EXPECT_EQ(run.faults(), 0u);
}

TEST_F(GroupRunTest, ARefusedPromptIsDroppedAtOnce) {
  GroupRun run = Make();
  run.MakeGenerateRequest(Version());
  EXPECT_TRUE(run.OnGenerateDone({absl::InvalidArgumentError("prompt"), {}}, false).empty());
  EXPECT_EQ(run.TakeGroup().outcome().dropped().reason(), kGenerationFailed);
}

TEST_F(GroupRunTest, ARefusedPrefixIsForgotten) {
  GroupRun run = Make();
  run.MakeGenerateRequest(Version());
  Deliver(run, 3, false);
  run.OnGenerateDone({absl::UnavailableError("reset"), {}}, false);
  run.MakeGenerateRequest(Version());
  EXPECT_EQ(run.OnGenerateDone({absl::InvalidArgumentError("prefix"), {}}, false).size(), 1u);
  EXPECT_EQ(run.MakeGenerateRequest(Version()).samples_size(), 0);
}

TEST_F(GroupRunTest, AnInfrastructureFailureIsNeverAReward) {
  GroupRun run = Make(3, false, 2);
  Generate(run);
  v1::ScoreResponse response = Scores({1, 0, 0});
  response.mutable_groups(0)->mutable_samples(2)->mutable_error()->set_reason("down");
  for (uint32_t i = 1; i < kAttempts; ++i) {
    ASSERT_EQ(run.OnScoreDone({absl::OkStatus(), {}}, response).size(), 1u);
  }
  EXPECT_TRUE(run.OnScoreDone({absl::OkStatus(), {}}, response).empty());
  ASSERT_TRUE(run.finished());
  const v1::Group group = run.TakeGroup();
  EXPECT_TRUE(group.outcome().has_finished());
  EXPECT_TRUE(group.trajectories(1).reward().has_value());
  EXPECT_FALSE(group.trajectories(2).reward().has_value());
  EXPECT_EQ(group.trajectories(2).reward().verifiers(0).failed(), "down");
}

TEST_F(GroupRunTest, ScoresOfDifferentTriesAddUp) {
  GroupRun run = Make();
  Generate(run);
  v1::ScoreResponse first = Scores({0.25, 0});
  first.mutable_groups(0)->mutable_samples(1)->mutable_retry()->set_reason("busy");
  ASSERT_EQ(run.OnScoreDone({absl::OkStatus(), {}}, first).size(), 1u);
  v1::ScoreResponse second = Scores({0, 0.75});
  second.mutable_groups(0)->mutable_samples(0)->mutable_retry()->set_reason("busy");
  run.OnScoreDone({absl::OkStatus(), {}}, second);
  ASSERT_TRUE(run.finished());
  const v1::Group group = run.TakeGroup();
  EXPECT_EQ(group.trajectories(0).reward().value(), 0.25);
  EXPECT_EQ(group.trajectories(1).reward().value(), 0.75);
}

TEST_F(GroupRunTest, TooFewScoresDropTheGroup) {
  GroupRun run = Make();
  Generate(run);
  for (uint32_t i = 0; i < kAttempts; ++i) {
    run.OnScoreDone({absl::UnavailableError("down"), {}}, {});
  }
  ASSERT_TRUE(run.finished());
  const v1::Group group = run.TakeGroup();
  EXPECT_EQ(group.outcome().dropped().reason(), kVerifierFailed);
  EXPECT_THAT(group.outcome().dropped().detail(), HasSubstr("0 of 2"));
  EXPECT_EQ(group.trajectories_size(), 2);  // the tokens stay on record
}

TEST_F(GroupRunTest, AbstentionsAreNoFault) {
  GroupRun run = Make(2, false, 1);
  Generate(run);
  v1::ScoreResponse response = Scores({1, 0});
  response.mutable_groups(0)->mutable_samples(1)->mutable_abstain()->set_reason("not mine");
  run.OnScoreDone({absl::OkStatus(), {}}, response);
  ASSERT_TRUE(run.finished());
  EXPECT_FALSE(run.TakeGroup().trajectories(1).reward().has_value());
  EXPECT_EQ(run.faults(), 0u);
}

TEST_F(GroupRunTest, GarbageScoresAreAskedForAgain) {
  for (int kind = 0; kind < 4; ++kind) {
    GroupRun run = Make();
    Generate(run);
    v1::ScoreResponse response = Scores({1, 0});
    v1::GroupResult* group = response.mutable_groups(0);
    if (kind == 0) {
      group->mutable_samples(1)->mutable_score()->set_value(
          std::numeric_limits<double>::quiet_NaN());
    }
    if (kind == 1) group->mutable_samples(1)->set_index(5);
    if (kind == 2) group->mutable_samples()->RemoveLast();
    if (kind == 3) group->set_group_id(8);
    const auto actions = run.OnScoreDone({absl::OkStatus(), {}}, response);
    ASSERT_EQ(actions.size(), 1u) << kind;
    EXPECT_EQ(actions[0].call, Call::kScore);
    run.OnScoreDone({absl::OkStatus(), {}}, Scores({1, 0}));
    EXPECT_TRUE(run.finished()) << kind;
  }
}

TEST_F(GroupRunTest, AFailingReferenceDropsTheGroup) {
  GroupRun run = Make(2, true);
  Generate(run);
  run.OnScoreDone({absl::OkStatus(), {}}, Scores({1, 0}));
  EXPECT_EQ(run.OnReferenceDone({absl::OkStatus(), {}}, References(2, 4, 0.5f)).size(), 1u);
  EXPECT_EQ(run.OnReferenceDone({absl::OkStatus(), {}}, References(1, 4)).size(), 1u);
  EXPECT_TRUE(run.OnReferenceDone({absl::OkStatus(), {}}, References(2, 3)).empty());
  EXPECT_EQ(run.TakeGroup().outcome().dropped().reason(), kReferenceFailed);
}

// A shutdown may come when the last token is there and the stream's end is not yet seen.
TEST_F(GroupRunTest, AGroupDroppedBetweenGenerationAndScoringHasARecord) {
  GroupRun run = Make();
  run.MakeGenerateRequest(Version());
  Deliver(run, 4, true);
  run.Drop(kShutdown, "stopped");
  EXPECT_EQ(run.TakeGroup().outcome().dropped().reason(), kShutdown);
}

TEST_F(GroupRunTest, GreedySamplesAreReferredToAtTemperatureOne) {
  GroupSpec spec = Make(1, true).spec();
  spec.sampling.set_temperature(0);
  GroupRun run(spec, kAttempts, 50, &versions_,
               [](std::span<const uint32_t>) { return std::string(); });
  EXPECT_EQ(run.MakeReferenceRequest().temperature(), 1.0f);
}

}  // namespace
}  // namespace rollcall::learner
