#include "services/cli/explain/warnings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/config/run_config.h"

namespace rollcall::explain {
namespace {

using ::testing::Contains;
using ::testing::Field;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kRun[] =
    "model: {path: /m}\n"
    "data: {train: [{path: train.jsonl}], evaluation: [{path: held_out.jsonl}]}\n"
    "reward: {verifiers: [{name: answer, exact_match: {}}]}\n";

std::vector<Warning> WarningsOf(const std::vector<std::string>& sets,
                                const ModelFacts& model = {}) {
  const std::string path = absl::StrCat(testing::TempDir(), "/warnings_", getpid(), ".yaml");
  EXPECT_EQ(WriteFileAtomically(path, kRun), absl::OkStatus());
  const absl::StatusOr<v1::RunConfig> config = config::LoadRunConfig(path, sets);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? FindWarnings(*config, model) : std::vector<Warning>();
}

TEST(FindWarningsTest, ASoundRunHasNone) {
  EXPECT_THAT(WarningsOf({}), IsEmpty());
  EXPECT_THAT(WarningsOf({"stage=sft"}), IsEmpty());
  EXPECT_THAT(WarningsOf({}, {.context = 4096, .kv_bytes_per_token = 100}), IsEmpty());
}

struct Case {
  const char* id;
  std::vector<std::string> fires;
  std::vector<std::string> silent;  // what a person would change
};

TEST(FindWarningsTest, EachFiresAndFallsSilent) {
  const Case kCases[] = {
      {"simpo_beta", {"stage=simpo", "preference.beta=0.1"}, {"stage=simpo"}},
      {"preference_beta", {"stage=dpo", "preference.beta=0.005"}, {"stage=dpo"}},
      {"preference_beta", {"stage=kto", "preference.beta=2"}, {"stage=kto"}},
      {"preference_lr",
       {"stage=dpo", "learner.optimizer.lr=1e-4"},
       {"stage=dpo", "learner.optimizer.lr=1e-4", "model.lora.r=16"}},
      {"ipo_normalisation",
       {"stage=dpo", "preference.loss=ipo", "preference.mean_log_prob=true"},
       {"stage=dpo", "preference.loss=ipo"}},
      {"ipo_normalisation",
       {"stage=dpo", "preference.loss=ipo", "preference.beta=0.6"},
       {"stage=dpo", "preference.loss=ipo", "preference.mean_log_prob=true",
        "preference.beta=0.5"}},
      {"kto_batch",
       {"stage=kto", "learner.prompts_per_step=4"},
       {"stage=kto", "learner.prompts_per_step=16"}},
      {"gspo_clip",
       {"algorithm.ratio_level=sequence_mean", "algorithm.clip_low=0.2", "algorithm.clip_high=0.2"},
       {"algorithm.ratio_level=sequence_mean", "algorithm.clip_low=3e-4",
        "algorithm.clip_high=4e-4"}},
      {"cispo_clip",
       {"algorithm.policy_loss=cispo", "algorithm.clip_high=0.2"},
       {"algorithm.policy_loss=cispo", "algorithm.clip_high=4"}},
      {"cispo_low",
       {"algorithm.policy_loss=cispo", "algorithm.clip_low=0.2"},
       {"algorithm.policy_loss=cispo", "algorithm.clip_low=1"}},
      {"k1_loss",
       {"algorithm.kl_estimator=k1", "algorithm.kl_placement=loss"},
       {"algorithm.kl_estimator=k1", "algorithm.kl_placement=reward"}},
      {"k1_loss",
       {"algorithm.kl_estimator=k1"},
       {"algorithm.kl_estimator=k1", "algorithm.kl_straight_through=true"}},
      {"abs_loss",
       {"algorithm.kl_estimator=abs"},
       {"algorithm.kl_estimator=abs", "algorithm.kl_coefficient=0"}},
      {"two_samples",
       {"algorithm.samples_per_prompt=2"},
       {"algorithm.samples_per_prompt=2", "algorithm.advantage_normalization=none"}},
      {"discount",
       {"algorithm.advantage_baseline=none", "algorithm.advantage_normalization=whiten",
        "algorithm.gamma=0.9"},
       {"algorithm.advantage_baseline=none", "algorithm.advantage_normalization=whiten",
        "algorithm.gamma=0.999"}},
      {"shuffled_rewards", {"algorithm.shuffle_rewards=true"}, {}},
      {"uncorrected_sampling", {"sampling.top_p=0.9"}, {"sampling.top_p=1"}},
      {"uncorrected_sampling", {"sampling.presence_penalty=0.5"}, {}},
      {"stale_uncorrected",
       {"learner.max_staleness=2", "algorithm.behavior_correction=none"},
       {"learner.max_staleness=2"}},
      {"discount",
       {"algorithm.preset=distillation", "reference.model_path=/t"},
       {"algorithm.preset=distillation", "reference.model_path=/t", "reward.verifiers=[]"}},
      {"frozen_rounds",
       {"algorithm.preset=iterative_dpo", "algorithm.reference_refresh_steps=0"},
       {"algorithm.preset=iterative_dpo"}},
      {"short_rounds",
       {"algorithm.preset=iterative_dpo", "algorithm.mini_batches=1",
        "algorithm.epochs_per_batch=1"},
       {"algorithm.preset=iterative_dpo"}},
      {"gap_ignored", {"learner.on_gap=ignore"}, {"learner.on_gap=ignore", "numerics=fast"}},
      {"temperature_mismatch", {"evaluation.temperature=0"}, {"evaluation.temperature=1"}},
      {"long_sequence", {"learner.micro_batch_tokens=1024"}, {"learner.micro_batch_tokens=2048"}},
  };
  for (const Case& of : kCases) {
    const auto named = Contains(Field(&Warning::id, of.id));
    EXPECT_THAT(WarningsOf(of.fires), named);
    EXPECT_THAT(WarningsOf(of.silent), Not(named)) << of.id;
  }
}

TEST(FindWarningsTest, SomeNeedTheModel) {
  const auto context = Contains(Field(&Warning::id, "context"));
  EXPECT_THAT(WarningsOf({}, {.context = 256}), context);
  EXPECT_THAT(WarningsOf({}, {.context = 257}), Not(context));

  const auto cache = Contains(Field(&Warning::id, "kv_cache"));
  const std::vector<std::string> eight = {"generator.kv_cache_bytes=10240"};  // 8 × 1280 tokens
  EXPECT_THAT(WarningsOf(eight, {.context = 4096, .kv_bytes_per_token = 1}), Not(cache));
  EXPECT_THAT(WarningsOf(eight, {.context = 4096, .kv_bytes_per_token = 2}), cache);
}

TEST(FindWarningsTest, AnEvaluationConcernsNoObjective) {
  EXPECT_THAT(WarningsOf({"stage=eval", "algorithm.kl_estimator=k1", "sampling.top_p=0.9"}),
              IsEmpty());
}

// Refused when the file is read: no run can have these, so there is nothing to warn of.
TEST(FindWarningsTest, WhatCannotWorkIsRefusedInstead) {
  const std::string path = absl::StrCat(testing::TempDir(), "/refused_", getpid(), ".yaml");
  ASSERT_EQ(WriteFileAtomically(path, kRun), absl::OkStatus());
  const std::vector<std::vector<std::string>> kRefused = {
      {"algorithm.samples_per_prompt=1"},  // a group of one equals its own mean
      {"algorithm.kl_target=0.1"},         // adapts a KL in the reward, and this one is in the loss
      {"algorithm.policy_loss=reinforce", "algorithm.mini_batches=2"},
      {"algorithm.dual_clip=0.5"}};
  for (const std::vector<std::string>& sets : kRefused) {
    const auto config = config::LoadRunConfig(path, sets);
    EXPECT_TRUE(absl::IsInvalidArgument(config.status())) << sets.front() << config.status();
  }
}

}  // namespace
}  // namespace rollcall::explain
