#include "common/config/run_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/config/algorithm_presets.h"
#include "common/config/field_rules.h"
#include "common/config/reference.h"
#include "common/config/yaml.h"

namespace rollcall::config {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kWhole[] =
    "model: {path: m}\n"
    "data: {train: [{path: a.jsonl}]}\n"
    "reward: {verifiers: [{name: answer, exact_match: {}}]}\n";

std::string ErrorOf(const std::vector<std::string>& sets, Role role = Role::kRun) {
  const std::string path = absl::StrCat(testing::TempDir(), "/run_config_", getpid(), ".yaml");
  EXPECT_EQ(WriteFileAtomically(path, kWhole), absl::OkStatus());
  const absl::StatusOr<v1::RunConfig> config = LoadRunConfig(path, sets, role);
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << config.status();
  return std::string(config.status().message());
}

TEST(LoadRunConfigTest, AcceptsTheSmallestWholeRun) {
  const std::string path = absl::StrCat(testing::TempDir(), "/whole_", getpid(), ".yaml");
  ASSERT_EQ(WriteFileAtomically(path, kWhole), absl::OkStatus());
  const absl::StatusOr<v1::RunConfig> config = LoadRunConfig(path);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->algorithm().samples_per_prompt(), 8u);
}

v1::AlgorithmSection AlgorithmOf(const std::vector<std::string>& sets) {
  const std::string path = absl::StrCat(testing::TempDir(), "/preset_", getpid(), ".yaml");
  EXPECT_EQ(WriteFileAtomically(path, kWhole), absl::OkStatus());
  const absl::StatusOr<v1::RunConfig> config = LoadRunConfig(path, sets);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? config->algorithm() : v1::AlgorithmSection();
}

TEST(LoadRunConfigTest, APresetFillsWhatIsNotSet) {
  const v1::AlgorithmSection dapo = AlgorithmOf({"algorithm.preset=dapo"});
  EXPECT_FLOAT_EQ(dapo.clip_high(), 0.28f);
  EXPECT_FLOAT_EQ(dapo.clip_low(), 0.2f);
  EXPECT_EQ(dapo.aggregation(), v1::LOSS_AGGREGATION_TOKEN_MEAN);
  EXPECT_EQ(dapo.kl_coefficient(), 0);
  const v1::AlgorithmSection own = AlgorithmOf(
      {"algorithm.preset=dapo", "algorithm.clip_high=0.3", "algorithm.kl_coefficient=0.04"});
  EXPECT_FLOAT_EQ(own.clip_high(), 0.3f);
  EXPECT_FLOAT_EQ(own.kl_coefficient(), 0.04f);
}

TEST(LoadRunConfigTest, EveryPresetLoadsAndKeepsItsRowWhenReadAgain) {
  for (int id = 1; id < v1::AlgorithmPreset_ARRAYSIZE; ++id) {
    const auto preset = static_cast<v1::AlgorithmPreset>(id);
    const v1::AlgorithmSection section = AlgorithmOf(
        {absl::StrCat("algorithm.preset=", PresetName(preset)), "reference.model_path=teacher"});
    EXPECT_EQ(section.preset(), preset);
    EXPECT_EQ(PresetCells(preset).empty(), preset == v1::ALGORITHM_PRESET_GRPO);
    v1::AlgorithmSection again;
    ASSERT_EQ(ParseYaml(FormatYaml(section), "again", {}, &again), absl::OkStatus());
    EXPECT_EQ(again.SerializeAsString(), section.SerializeAsString()) << PresetName(preset);
  }
}

// Rollouts that may be old are corrected for their age, unless the file says otherwise.
TEST(LoadRunConfigTest, AnAsynchronousRunCorrectsForStaleRollouts) {
  EXPECT_EQ(AlgorithmOf({}).behavior_correction(), v1::BEHAVIOR_CORRECTION_NONE);
  EXPECT_EQ(AlgorithmOf({"learner.max_staleness=1"}).behavior_correction(),
            v1::BEHAVIOR_CORRECTION_TOKEN_TRUNCATE);
  EXPECT_EQ(AlgorithmOf({"learner.max_staleness=1", "algorithm.behavior_correction=none"})
                .behavior_correction(),
            v1::BEHAVIOR_CORRECTION_NONE);
  EXPECT_EQ(AlgorithmOf({"learner.max_staleness=1", "algorithm.behavior_correction=sequence_mask"})
                .behavior_correction(),
            v1::BEHAVIOR_CORRECTION_SEQUENCE_MASK);
  // A loss of pairs has no ratio to correct.
  EXPECT_EQ(
      AlgorithmOf({"learner.max_staleness=1", "algorithm.preset=online_dpo"}).behavior_correction(),
      v1::BEHAVIOR_CORRECTION_NONE);
}

TEST(LoadRunConfigTest, OnlyDistillationGoesWithoutAReward) {
  const std::vector<std::string> run = {"model.path=m", "data.train=[{path: a}]",
                                        "reference.model_path=t"};
  const auto status_with = [&](std::vector<std::string> sets) {
    sets.insert(sets.begin(), run.begin(), run.end());
    return LoadRunConfig("", sets).status();
  };
  EXPECT_EQ(status_with({"algorithm.preset=distillation"}), absl::OkStatus());
  EXPECT_EQ(status_with({"algorithm.preset=distillation",
                         "reward.verifiers=[{name: a, weight: 0, length: {}}]"}),
            absl::OkStatus());
  EXPECT_THAT(std::string(status_with({"algorithm.preset=distillation",
                                       "reward.verifiers=[{name: A, length: {}}]"})
                              .message()),
              HasSubstr("reward.verifiers[0].name: only a to z"));
  EXPECT_THAT(std::string(status_with({"algorithm.preset=reinforce_pp"}).message()),
              HasSubstr("reward.verifiers: needs at least one verifier"));
  EXPECT_THAT(std::string(status_with({"algorithm.preset=reinforce_pp",
                                       "reward.verifiers=[{name: a, weight: 0, length: {}}]"})
                              .message()),
              HasSubstr("reward.verifiers: every weight is 0"));
  EXPECT_THAT(std::string(status_with({"algorithm.preset=distillation", "stage=eval",
                                       "data.evaluation=[{path: e}]"})
                              .message()),
              HasSubstr("reward.verifiers: needs at least one verifier"));
}

TEST(LoadRunConfigTest, RefusesEachBrokenRuleWithItsFieldAndOrigin) {
  const struct {
    const char* set;
    const char* error;
  } kCases[] = {
      {"algorithm={preset: ppo, advantage_normalization: batch_std}",
       "algorithm.advantage_normalization: batch_std goes with a baseline over the group"},
      {"algorithm={preset: online_dpo, samples_per_prompt: 1}",
       "algorithm.samples_per_prompt: online_dpo compares the samples of a group"},
      {"algorithm={preset: online_dpo, kl_coefficient: 0.1}",
       "algorithm.kl_coefficient: is no part of online_dpo"},
      {"algorithm={preset: online_dpo, mask_truncated: true}",
       "algorithm.mask_truncated: is no part of online_dpo"},
      {"algorithm={preset: iterative_dpo, entropy_coefficient: 0.1}",
       "algorithm.entropy_coefficient: is no part of iterative_dpo"},
      {"algorithm.preset=distillation",
       "reference.model_path: is needed by distillation: the teacher"},
      {"algorithm={preset: distillation, kl_coefficient: 0}",
       "algorithm.kl_coefficient: weighs the teacher in distillation: must be > 0, got 0"},
      {"algorithm={preset: distillation, reference_refresh_steps: 1}",
       "algorithm.reference_refresh_steps: would put the student in its teacher's place"},
      {"algorithm={preset: remax, mini_batches: 2}", "algorithm.policy_loss: reinforce has no"},
      {"algorithm.reward_whitening=true",
       "algorithm.reward_whitening: scales the rewards of tokens"},
      {"algorithm={preset: reinforce_pp, gae_lambda: 0.9}",
       "algorithm.gae_lambda: goes with advantage_baseline critic; must be 1, got 0.9"},
      {"algorithm={preset: reinforce_pp, samples_per_prompt: 1, dynamic_sampling: true}",
       "algorithm.dynamic_sampling: compares the samples of a group"},
      {"algorithm.dynamic_sampling_metric=accuracy",
       "algorithm.dynamic_sampling_metric: must name one of reward.verifiers, got \"accuracy\""},
      {"algorithm={preset: opo, reference_refresh_steps: 5}",
       "algorithm.reference_refresh_steps: needs a reference"},
      {"algorithm.samples_per_prompt=1",
       "--set algorithm.samples_per_prompt=1: algorithm.samples_per_prompt: grpo compares"},
      {"algorithm.min_valid_samples=1", "algorithm.min_valid_samples: grpo compares"},
      {"algorithm.min_valid_samples=9", "must be at most algorithm.samples_per_prompt (8), got 9"},
      {"algorithm={preset: rloo, samples_per_prompt: 1}",
       "algorithm.samples_per_prompt: rloo compares the samples of a group: must be >= 2, got 1"},
      {"algorithm={preset: rloo, advantage_normalization: group_std}",
       "algorithm.advantage_normalization: group_std goes with advantage_baseline group_mean"},
      {"algorithm={preset: reinforce_pp, advantage_normalization: batch_std}",
       "algorithm.advantage_normalization: batch_std goes with a baseline over the group"},
      {"algorithm.gamma=0.9", "algorithm.gamma: discounts rewards token by token"},
      {"algorithm.dual_clip=1", "algorithm.dual_clip: must be 0 (none) or above 1, got 1"},
      {"algorithm={preset: cispo, dual_clip: 3}", "algorithm.dual_clip: bounds the surrogate"},
      {"algorithm={preset: cispo, ratio_cap: 3}", "algorithm.ratio_cap: bounds the surrogate"},
      {"algorithm={policy_loss: reinforce, mini_batches: 2}",
       "algorithm.policy_loss: reinforce has no ratio"},
      {"algorithm.behavior_min=3", "algorithm.behavior_min: must be at most behavior_max (2)"},
      {"algorithm.kl_target=0.1", "algorithm.kl_target: adapts the coefficient of a KL in the"},
      {"algorithm={preset: rloo, kl_straight_through: true}",
       "algorithm.kl_straight_through: concerns a gradient"},
      {"algorithm.overlong_buffer=300",
       "algorithm.overlong_buffer: must be at most sampling.max_tokens (256), got 300"},
      {"algorithm.mini_batches=5",
       "learner.prompts_per_step: must be a multiple of algorithm.mini_batches (5), got 32"},
      {"learner.prompts_per_step=4294967295", "learner.prompts_per_step: times algorithm.samples"},
      {"model.lora={r: 4, dropout: 0.1}", "model.lora.dropout: must be 0: adapters are trained"},
      {"model.lora.merge_on_export=true",
       "model.lora.r: must be at least 1 (or model.lora.path given) for an adapter"},
      {"sampling.temperature=0", "sampling.temperature: must be > 0 with stage rl"},
      {"sampling.min_tokens=300", "sampling.min_tokens: must be at most sampling.max_tokens (256)"},
      {"data.train=[]", "data.train: needs at least one file"},
      {"reward.verifiers=[]", "reward.verifiers: needs at least one verifier"},
      {"reward.verifiers=[{name: a}]", "reward.verifiers[0]: needs one of exact_match, "},
      {"reward.verifiers=[{name: A, length: {}}]", "reward.verifiers[0].name: only a to z"},
      {"reward.verifiers=[{name: a, length: {}}, {name: a, length: {}}]",
       "reward.verifiers[1].name: \"a\" is also the name of reward.verifiers[0]"},
      {"reward.verifiers[0].weight=0", "reward.verifiers: every weight is 0"},
      {"reward.verifiers=[{name: a, remote: {address: nowhere}}]",
       "reward.verifiers[0].remote.address: expected host:port or unix:/path, got \"nowhere\""},
      {"reward.verifiers=[{name: a, reward_model: {path: /m, address: nowhere}}]",
       "reward.verifiers[0].reward_model.address: expected host:port or unix:/path"},
      {"reward.verifiers=[{name: a, reward_model: {}}]", "reward_model.path"},
      {"reward.verifiers=[{name: a, contains: {}}]",
       "reward.verifiers[0].contains: needs a column"},
      {"reward.verifiers=[{name: a, length: {min_tokens: 5, max_tokens: 4}}]",
       "reward.verifiers[0].length.min_tokens: must be at most max_tokens (4), got 5"},
      {"generator.max_waiting_samples=7", "generator.max_waiting_samples: must hold a group"},
      {"evaluation.every_steps=5", "evaluation.every_steps: needs data.evaluation"},
      {"name=a/b", "name: names a folder"},
      {"learner.listen=7400", "learner.listen: expected host:port or unix:/path"},
  };
  for (const auto& c : kCases) EXPECT_THAT(ErrorOf({c.set}), HasSubstr(c.error)) << c.set;
}

TEST(UncorrectedSamplingTest, NamesWhatReshapesTheDistribution) {
  v1::SamplingSection sampling;
  sampling.set_top_p(1);
  sampling.set_repetition_penalty(1);
  EXPECT_EQ(UncorrectedSampling(sampling), "");
  sampling.set_top_k(5);
  sampling.set_repetition_penalty(1.1f);
  sampling.set_no_repeat_ngram_size(3);
  EXPECT_EQ(UncorrectedSampling(sampling),
            "sampling.top_k, sampling.repetition_penalty, sampling.no_repeat_ngram_size");
}

TEST(LoadRunConfigTest, SupervisedRunsNeedNoReward) {
  const std::vector<std::string> sets = {"stage=sft", "model.path=m", "data.train[0].path=a",
                                         "sampling.temperature=0"};
  EXPECT_EQ(LoadRunConfig("", sets).status(), absl::OkStatus());
}

TEST(LoadRunConfigTest, EvaluationNeedsHeldOutPromptsAndARewardOnly) {
  std::vector<std::string> sets = {"stage=eval", "model.path=m", "sampling.temperature=0",
                                   "reward.verifiers=[{name: a, length: {}}]"};
  EXPECT_THAT(std::string(LoadRunConfig("", sets).status().message()),
              HasSubstr("data.evaluation: needs at least one file"));
  sets.push_back("data.evaluation=[{path: e}]");
  EXPECT_EQ(LoadRunConfig("", sets).status(), absl::OkStatus());
  sets.push_back("reward.verifiers=[]");
  EXPECT_THAT(std::string(LoadRunConfig("", sets).status().message()),
              HasSubstr("reward.verifiers: needs at least one verifier"));
}

TEST(LoadRunConfigTest, AServiceNeedsOnlyItsOwnSections) {
  const std::vector<std::string> reward = {"reward.verifiers=[{name: a, length: {}}]"};
  EXPECT_EQ(LoadRunConfig("", reward, Role::kReward).status(), absl::OkStatus());
  EXPECT_THAT(std::string(LoadRunConfig("", reward, Role::kGenerator).status().message()),
              HasSubstr("model.path: required"));
  const std::vector<std::string> model = {"model.path=m"};
  EXPECT_EQ(LoadRunConfig("", model, Role::kGenerator).status(), absl::OkStatus());
  EXPECT_EQ(LoadRunConfig("", model, Role::kReference).status(), absl::OkStatus());
  EXPECT_THAT(std::string(LoadRunConfig("", model, Role::kReward).status().message()),
              HasSubstr("reward.verifiers: needs at least one"));
}

void CollectTypes(const google::protobuf::Descriptor* type,
                  std::set<const google::protobuf::Descriptor*>* types) {
  if (!types->insert(type).second) return;
  for (int i = 0; i < type->field_count(); ++i) {
    if (type->field(i)->message_type() != nullptr) {
      CollectTypes(type->field(i)->message_type(), types);
    }
  }
}

TEST(RunConfigTest, AChainStartsItsModelsItself) {
  const auto load = [](std::vector<std::string> sets) {
    sets.insert(sets.begin(), {"stage=rlaif", "model.path=m", "data.train=[{path: a}]"});
    return LoadRunConfig("", sets);
  };
  EXPECT_THAT(load({}).status().message(),
              HasSubstr("rlaif.constitution: is needed with stage rlaif"));
  const std::string rules = "rlaif.constitution=rules.yaml";
  const auto chain = load({rules});
  ASSERT_TRUE(chain.ok()) << chain.status();
  EXPECT_EQ(chain->algorithm().preset(), v1::ALGORITHM_PRESET_PPO);
  EXPECT_EQ(chain->algorithm().advantage_baseline(), v1::ADVANTAGE_BASELINE_CRITIC);
  EXPECT_EQ(load({rules, "algorithm.preset=grpo"})->algorithm().preset(),
            v1::ALGORITHM_PRESET_GRPO);
  const std::pair<std::string, std::string> kRefused[] = {
      {"sampling.temperature=0", "sampling.temperature: must be > 0 with stage rlaif"},
      {"rlaif.feedback_sampling.min_tokens=1000",
       "rlaif.feedback_sampling.min_tokens: must be at most max_tokens (256)"},
      {"data.train[0].weight=1", "data.train[0].weight: has no meaning with stage rlaif"},
      {"generator.addresses=['h:1']", "generator.addresses: must be empty with stage rlaif"},
      {"reference.model_path=r", "reference.model_path: must be empty with stage rlaif"},
      {"data.evaluation=[{path: b}]", "reward.verifiers: needs at least one verifier"},
      {"reward.verifiers=[{name: v, length: {}}]",
       "reward.verifiers: score held-out prompts alone with stage rlaif: needs data.evaluation"},
      {"model.lora.r=8", "model.lora: must be unset with stage rlaif"},
      {"evaluation.every_steps=5", "evaluation.every_steps: must be 0 with stage rlaif"}};
  for (const auto& [set, message] : kRefused) {
    EXPECT_THAT(load({rules, set}).status().message(), HasSubstr(message)) << set;
  }
  const std::vector<std::string> learner = {"stage=rlaif", "model.path=m", "data.train=[{path: a}]",
                                            rules};
  EXPECT_THAT(LoadRunConfig("", learner, Role::kLearner).status().message(),
              HasSubstr("stage: rlaif is a chain of stages"));
}

TEST(RunConfigSchemaTest, EveryDefaultIsAValueWithinItsBoundsAndEveryFieldIsExplained) {
  std::set<const google::protobuf::Descriptor*> types;
  CollectTypes(v1::RunConfig::descriptor(), &types);
  EXPECT_GT(types.size(), 15u);
  for (const auto* type : types) {
    for (int i = 0; i < type->field_count(); ++i) {
      const auto* field = type->field(i);
      const v1::FieldRules& rules = RulesOf(*field);
      if (field->message_type() == nullptr) {
        EXPECT_THAT(rules.doc(), Not(IsEmpty())) << field->full_name();
      }
    }
  }
  // A default that is no value, or out of bounds, would fail here.
  const std::vector<std::string> sets = {
      "model.path=m", "data.train=[{path: a}]",
      "reward.verifiers=[{name: a, exact_match: {}}, {name: b, numeric_answer: {}}, "
      "{name: c, regex: {pattern: x}}, {name: d, length: {}}, {name: e, contains: {texts: [a]}}, "
      "{name: f, remote: {address: 'h:1'}}]"};
  EXPECT_EQ(LoadRunConfig("", sets).status(), absl::OkStatus());
}

TEST(FieldHelpTest, DescribesFieldsAndSections) {
  const auto& schema = *v1::RunConfig::descriptor();
  const auto lr = FieldHelp(schema, "learner.optimizer.lr");
  ASSERT_TRUE(lr.ok());
  EXPECT_EQ(*lr,
            "learner.optimizer.lr: a finite number, >= 0, default 1e-6\n"
            "Peak learning rate of AdamW.\n");
  const auto verifiers = FieldHelp(schema, "reward.verifiers[0].timeout");
  ASSERT_TRUE(verifiers.ok());
  EXPECT_THAT(*verifiers, HasSubstr("> 0, default 60, in seconds"));
  EXPECT_THAT(*FieldHelp(schema, "sampling"), HasSubstr("  top_p: a finite number, > 0 and <= 1"));
  EXPECT_THAT(
      *FieldHelp(schema, ""),
      HasSubstr(
          "  stage: one of rl, sft, eval, reward_model, dpo, simpo, orpo, kto, rlaif, default rl"));
  EXPECT_EQ(FieldHelp(schema, "learner.optimiser.lr").status(),
            absl::NotFoundError("learner.optimiser: unknown field; did you mean optimizer?"));
  EXPECT_EQ(FieldHelp(schema, "seed.x").status().code(), absl::StatusCode::kNotFound);
}

TEST(DocumentMarkdownTest, HasARowForEveryFieldOfTheSchema) {
  const std::string text = DocumentMarkdown(*v1::RunConfig::descriptor());
  EXPECT_THAT(text, HasSubstr("## `learner.optimizer`\n"));
  EXPECT_THAT(text, HasSubstr("## `reward.verifiers[].numeric_answer`\n"));
  EXPECT_THAT(text, HasSubstr("| `lr` | a finite number | `1e-6` | >= 0 |  | Peak learning rate"));
  std::set<const google::protobuf::Descriptor*> types;
  CollectTypes(v1::RunConfig::descriptor(), &types);
  for (const auto* type : types) {
    for (int i = 0; i < type->field_count(); ++i) {
      EXPECT_THAT(text, HasSubstr(absl::StrCat("| `", type->field(i)->name(), "` |")));
    }
  }
}

}  // namespace
}  // namespace rollcall::config
