#include "services/cli/explain/explain.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/config/run_config.h"
#include "common/text/parquet_file.h"
#include "services/cli/explain/batch_arithmetic.h"
#include "services/cli/explain/objective_text.h"

namespace rollcall::explain {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kRun[] =
    "model: {path: /nowhere}\n"
    "data: {train: [{path: train.jsonl}]}\n"
    "reward: {verifiers: [{name: answer, exact_match: {}}]}\n";
constexpr char kModel[] = R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
  "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
  "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 100, "max_position_embeddings": 512,
  "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": false,
  "torch_dtype": "float32"})";
// Embedding and head of 100 × 64; two blocks of 64 × (64 + 32 + 32) + 64 × 64 + 3 × 64 × 96 and two
// norms; the final norm.
constexpr int64_t kParameters = 2 * 6400 + 2 * (8192 + 4096 + 18432 + 128) + 64;

class ExplainTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = absl::StrCat(testing::TempDir(), "/explain_", getpid(), "_",
                           testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(folder_ + "/model");
    ASSERT_EQ(WriteFileAtomically(folder_ + "/run.yaml", kRun), absl::OkStatus());
    ASSERT_EQ(WriteFileAtomically(folder_ + "/model/config.json", kModel), absl::OkStatus());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  v1::RunConfig Load(const std::vector<std::string>& sets) {
    const auto config = config::LoadRunConfig(folder_ + "/run.yaml", sets);
    EXPECT_TRUE(config.ok()) << config.status();
    return config.value_or(v1::RunConfig());
  }
  std::string Text(const std::vector<std::string>& sets) { return FormatText(Explain(Load(sets))); }

  std::string folder_;
};

TEST_F(ExplainTest, WritesTheObjectiveWithItsNumbers) {
  EXPECT_THAT(Text({"algorithm.clip_high=0.28", "algorithm.kl_coefficient=0.01"}),
              AllOf(HasSubstr("L = 1/S · Σ_i 1/T_i · Σ_t ℓ(i,t)"),
                    HasSubstr("ℓ = max(−A·ρ, −A·clip(ρ, 0.8, 1.28)) + 0.01·KL"),
                    HasSubstr("A = (r − mean of the group) / (std of the group + 0.0001)"),
                    HasSubstr("KL = exp(−d) − 1 + d (k3)"), HasSubstr("r = answer\n")));
  EXPECT_THAT(
      Text({"algorithm.kl_coefficient=0", "algorithm.aggregation=constant_length",
            "algorithm.advantage_normalization=none", "algorithm.dual_clip=3",
            "algorithm.ratio_cap=4", "algorithm.entropy_coefficient=0.001",
            "sampling.max_tokens=300"}),
      AllOf(HasSubstr("L = 1/(S·300)"),
            HasSubstr("ℓ = min(max(−A·min(ρ, 4), −A·clip(ρ, 0.8, 1.2)), −3·A where A < 0) − "
                      "0.001·H"),
            HasSubstr("A = r − mean of the group\n"), Not(HasSubstr("KL ="))));
  EXPECT_THAT(
      Text({"algorithm.policy_loss=cispo", "algorithm.clip_low=1", "algorithm.clip_high=4",
            "algorithm.aggregation=token_mean", "algorithm.behavior_correction=token_truncate"}),
      AllOf(HasSubstr("ℓ = w·−sg(clip(ρ, 0, 5))·A·log π"), HasSubstr("L = 1/T"),
            HasSubstr("token_truncate within [0, 2]")));
  EXPECT_THAT(Text({"stage=sft"}),
              AllOf(HasSubstr("L = 1/T · Σ_i Σ_t −log π(y_t)"), Not(HasSubstr("preset"))));
}

TEST_F(ExplainTest, WritesTheLossesOfPreferences) {
  EXPECT_THAT(Text({"stage=dpo"}),
              AllOf(HasSubstr("L = 1/P · Σ −log σ(0.1·h)\n"), HasSubstr("h = c − r"),
                    HasSubstr("P: pairs of the whole batch"), HasSubstr("reference  (/nowhere)"),
                    HasSubstr("32 pairs = 64 sequences, chosen and rejected in one forward pass")));
  EXPECT_THAT(
      Text({"stage=dpo", "preference.label_smoothing=0.25", "preference.beta=0.5",
            "preference.sft_weight=0.25", "data.preference_column=p"}),
      AllOf(HasSubstr("L = 1/P · Σ −0.75·log σ(0.5·h) − 0.25·log σ(−0.5·h) + 0.25·1/T · Σ "
                      "−log π(y_t) of the chosen\n"),
            HasSubstr("p: the column p"), HasSubstr("T: tokens of all chosen completions")));
  EXPECT_THAT(Text({"stage=dpo", "preference.loss=ipo", "preference.beta=0.25"}),
              AllOf(HasSubstr("L = 1/P · Σ (h − 2)²\n"), HasSubstr("summed over its tokens")));
  EXPECT_THAT(
      Text({"stage=simpo"}),
      AllOf(HasSubstr("x = 2·(mean log π of the chosen − mean log π of the rejected) − 0.5"),
            Not(HasSubstr("reference  ("))));
  EXPECT_THAT(
      Text({"stage=orpo", "preference.beta=0.25"}),
      AllOf(HasSubstr("L = 1/T · Σ −log π(y_t) of the chosen + 0.25 · 1/P · Σ −log σ(odds)"),
            Not(HasSubstr("reference  ("))));
  EXPECT_THAT(
      Text({"stage=kto", "preference.undesirable_weight=1.25"}),
      AllOf(HasSubstr("L = 1/S · Σ (1 − σ(0.1·(r − z))) of a desirable completion, 1.25·(1 − "
                      "σ(0.1·(z − r))) of an undesirable one\n"),
            HasSubstr("z = max(0"), HasSubstr("reference  (/nowhere)"),
            HasSubstr("32 labelled completions = 64 sequences")));
}

TEST_F(ExplainTest, SaysWhatIsNotThePresets) {
  EXPECT_THAT(Text({}), Not(HasSubstr("cells that are not")));
  EXPECT_THAT(Text({"algorithm.preset=dapo"}), Not(HasSubstr("cells that are not")));
  EXPECT_THAT(
      Text({"algorithm.preset=dapo", "algorithm.clip_high=0.3"}),
      AllOf(HasSubstr("cells that are not those of dapo's row"),
            HasSubstr("clip_high         0.3 (dapo: 0.28)"), Not(HasSubstr("clip_low   "))));
}

TEST_F(ExplainTest, WritesTheRewardAsItIsComposed) {
  const v1::RunConfig config = Load(
      {"reward.verifiers=[{name: format, weight: 0, gate: 1, reward_if_gated: -1, length: {}}, "
       "{name: answer, exact_match: {}}, {name: short, weight: 0.5, length: {}}]",
       "algorithm.overlong_buffer=64"});
  const std::vector<Line> lines = DescribeObjective(config);
  const auto reward = std::find_if(lines.begin(), lines.end(),
                                   [](const Line& line) { return line.name == "reward"; });
  ASSERT_NE(reward, lines.end());
  EXPECT_EQ(reward->text,
            "r = answer + 0.5·short; -1 where format < 1; less up to 1 over the last 64 of 256 "
            "tokens");
}

TEST_F(ExplainTest, CountsBatchesAndSteps) {
  const BatchArithmetic batch =
      CountBatch(Load({"learner.prompts_per_step=32", "algorithm.samples_per_prompt=8",
                       "algorithm.mini_batches=4", "algorithm.epochs_per_batch=2",
                       "learner.steps=10", "learner.micro_batch_tokens=3000"}),
                 /*context=*/0);
  EXPECT_EQ(batch.sequences, 256u);
  EXPECT_EQ(batch.mini_batch_sequences, 64u);
  EXPECT_EQ(batch.longest_sequence, 1280u);
  EXPECT_EQ(batch.most_micro_batches, 32u);  // two sequences of 1,280 in 3,000 tokens
  EXPECT_EQ(batch.optimizer_steps, 8u);
  EXPECT_EQ(batch.on_policy_steps, 1u);
  EXPECT_EQ(batch.total_optimizer_steps, 80u);
  EXPECT_EQ(batch.total_prompts, 320u);
  EXPECT_EQ(CountBatch(Load({}), /*context=*/300).longest_sequence, 300u);
  EXPECT_EQ(CountBatch(Load({"learner.max_staleness=1"}), 0).on_policy_steps, 0u);
}

TEST_F(ExplainTest, SaysWhichStepsAreOnPolicyAndHowOftenDataIsSeen) {
  ASSERT_EQ(WriteFileAtomically(folder_ + "/train.jsonl", "{}\n{}\n\n{}\n{}\n"), absl::OkStatus());
  const std::string train = absl::StrCat("data.train=[{path: ", folder_, "/train.jsonl}]");
  EXPECT_THAT(Text({train, "learner.steps=2"}),
              AllOf(HasSubstr("32 prompts × 8 samples = 256 sequences"),
                    HasSubstr("the ratio is exactly 1"),
                    HasSubstr("64 prompts in the whole run, 16.00 passes over 4 rows")));
  ASSERT_TRUE(
      text::WriteParquet(folder_ + "/train.parquet", "{\"a\": 1}\n{\"a\": 2}\n", 1, "none").ok());
  EXPECT_THAT(
      Text({absl::StrCat("data.train=[{path: ", folder_, "/train.parquet}]"), "learner.steps=2"}),
      HasSubstr("32.00 passes over 2 rows"));
  EXPECT_THAT(
      Text({"algorithm.mini_batches=4"}),
      AllOf(HasSubstr("the first of the 4 steps"), HasSubstr("4 of 64 sequences (8 whole groups)"),
            Not(HasSubstr("passes over"))));
  EXPECT_THAT(Text({"learner.max_staleness=3"}), HasSubstr("none: rollouts may be 3 versions old"));
}

TEST_F(ExplainTest, CountsEveryModelOfTheRun) {
  const std::string path = folder_ + "/model";
  const Explanation all = Explain(
      Load({"model.path=" + path, "generator.replicas=2", "generator.kv_cache_bytes=1000000",
            "reward.verifiers=[{name: quality, reward_model: {path: /elsewhere}}]",
            "learner.micro_batch_tokens=1000"}));
  std::vector<std::string> names;
  for (const ModelMemory& model : all.models) names.push_back(model.name);
  EXPECT_THAT(names,
              ElementsAre("learner: policy", "generator", "reward model quality", "reference"));
  const auto bytes = [](const ModelMemory& model, const std::string& item) {
    for (const inspect::MemoryItem& of : model.estimate.items) {
      if (of.name == item) return of.bytes;
    }
    return int64_t{-1};
  };
  EXPECT_EQ(bytes(all.models[0], "weights"), kParameters * 4);
  EXPECT_EQ(bytes(all.models[0], "gradients"), kParameters * 4);
  EXPECT_EQ(bytes(all.models[0], "AdamW's moments"), kParameters * 8);
  EXPECT_EQ(bytes(all.models[0], "copy to publish"), kParameters * 4);
  EXPECT_GT(bytes(all.models[0], "activations"), 0);
  EXPECT_EQ(all.models[1].copies, 2u);
  EXPECT_EQ(bytes(all.models[1], "KV cache"), 1000000);
  EXPECT_THAT(all.models[2].unknown, HasSubstr("/elsewhere/config.json"));
  EXPECT_EQ(bytes(all.models[3], "weights"), kParameters * 4);
  EXPECT_EQ(bytes(all.models[3], "KV cache"), -1);

  const Explanation ranks =
      Explain(Load({"model.path=" + path, "learner.ranks=2", "algorithm.kl_coefficient=0"}));
  EXPECT_EQ(ranks.models[0].copies, 2u);
  EXPECT_EQ(bytes(ranks.models[0], "AdamW's moments"), kParameters * 4);
  const Explanation narrow =
      Explain(Load({"model.path=" + path, "learner.ranks=2", "model.dtype=bfloat16"}));
  EXPECT_EQ(bytes(narrow.models[0], "float32 masters"), kParameters * 2);
  EXPECT_EQ(bytes(narrow.models[0], "gradients"), kParameters * 4);
  EXPECT_EQ(ranks.models.size(), 2u);
  EXPECT_EQ(Explain(Load({"model.path=" + path, "stage=sft"})).models.size(), 1u);
}

TEST_F(ExplainTest, CountsTheLearnersOwnCriticAndReference) {
  const std::string path = "model.path=" + folder_ + "/model";
  const auto names = [](const Explanation& explanation) {
    std::vector<std::string> all;
    for (const ModelMemory& model : explanation.models) all.push_back(model.name);
    return all;
  };
  const Explanation ppo = Explain(Load({path, "algorithm.preset=ppo"}));
  EXPECT_THAT(names(ppo),
              ElementsAre("learner: policy", "learner: critic", "generator", "reference"));
  // A value for each token in place of the vocabulary, and nothing to publish.
  EXPECT_EQ(ppo.models[1].estimate.items[0].bytes, (kParameters - 6400 + 64) * 4);
  EXPECT_THAT(FormatText(ppo), AllOf(HasSubstr("δ_t = r_t + 1·V_{t+1} − V_t"),
                                     HasSubstr("value loss"), HasSubstr("whiten(")));
  EXPECT_THAT(names(Explain(Load({path, "algorithm.reference_refresh_steps=10"}))),
              ElementsAre("learner: policy", "generator", "learner: reference"));
  const Explanation pairs = Explain(Load({path, "algorithm.preset=online_dpo"}));
  EXPECT_THAT(names(pairs), ElementsAre("learner: policy", "generator", "reference"));
  EXPECT_THAT(FormatText(pairs), HasSubstr("L = 1/P · Σ −log σ(0.1·h)"));
}

TEST_F(ExplainTest, SaysWhoTeachesAndWhenTheReferenceMoves) {
  const std::string path = "model.path=" + folder_ + "/model";
  const Explanation taught =
      Explain(Load({path, "algorithm.preset=distillation", "reference.model_path=/teacher",
                    "reward.verifiers=[]"}));
  EXPECT_THAT(FormatText(taught),
              AllOf(HasSubstr("A = r_t, each token's own"), HasSubstr("r = 0, no verifier counts"),
                    HasSubstr("KL = d (k1)"), HasSubstr("r_t loses 1·KL_t"),
                    HasSubstr("π_ref is the teacher, /teacher")));
  ASSERT_EQ(taught.models.size(), 3u);
  EXPECT_EQ(taught.models[2].name, "reference");
  EXPECT_EQ(taught.models[2].path, "/teacher");
  EXPECT_THAT(taught.warnings, IsEmpty());

  const Explanation rounds = Explain(Load({path, "algorithm.preset=iterative_dpo"}));
  EXPECT_THAT(
      FormatText(rounds),
      AllOf(HasSubstr("L = 1/P · Σ −log σ(0.1·h)"), HasSubstr("π_ref becomes π after every step"),
            HasSubstr("4 mini-batches × 2 epochs = 8 steps a rollout batch")));
  EXPECT_EQ(rounds.models.back().name, "learner: reference");
}

TEST_F(ExplainTest, SaysHowMuchIsTrained) {
  const std::string path = "model.path=" + folder_ + "/model";
  const Explanation whole = Explain(Load({path, "model.dtype=bfloat16"}));
  EXPECT_EQ(whole.trained.trained, kParameters);
  EXPECT_EQ(whole.trained.optimizer_bytes, kParameters * 12);
  EXPECT_EQ(whole.trained.published_bytes, kParameters * 2);

  // Rank 4 beside q: 4 × (64 + 64), and down: 4 × (96 + 64), of two layers; in float32.
  constexpr int64_t kAdapter = 2 * 4 * (128 + 160);
  const Explanation adapter =
      Explain(Load({path, "model.dtype=bfloat16", "model.lora.r=4", "learner.micro_batch_tokens=1",
                    "model.lora.target_modules=[q_proj, down_proj]"}));
  EXPECT_EQ(adapter.trained.parameters, kParameters);
  EXPECT_EQ(adapter.trained.trained, kAdapter);
  EXPECT_EQ(adapter.trained.optimizer_bytes, kAdapter * 8);
  EXPECT_EQ(adapter.trained.published_bytes, kAdapter * 4);
  std::vector<std::string> items;
  int64_t known = 0;
  for (const inspect::MemoryItem& item : adapter.models[0].estimate.items) {
    items.push_back(item.name);
    if (item.name != "activations") known += item.bytes;
  }
  EXPECT_THAT(items, ElementsAre("weights", "adapter", "gradients", "AdamW's moments",
                                 "copy to publish", "activations"));
  EXPECT_EQ(known, kParameters * 2 + kAdapter * (4 + 4 + 8 + 4));
  EXPECT_THAT(
      FormatText(adapter),
      AllOf(HasSubstr("rank 4 beside down_proj, q_proj, product times 4"),
            HasSubstr("2,304 of 74,560 (3.09 %)"), HasSubstr("9,216 B = 9.00 KiB a version")));
  // What the learner would refuse is said where the figures would be.
  EXPECT_THAT(Text({path, "model.lora.r=4", "model.lora.target_modules=[lm_head]"}),
              HasSubstr("model.lora: target_modules: \"lm_head\" names lm_head, no linear layer"));
}

TEST_F(ExplainTest, CountsTheStepsOfAChain) {
  ASSERT_EQ(WriteFileAtomically(folder_ + "/rules.yaml",
                                "name: r\nprinciples: [{name: a, critique: '{answer}', revision: "
                                "'{answer}', judgement: '{answer_a} {answer_b}'}]\n"),
            absl::OkStatus());
  ASSERT_EQ(WriteFileAtomically(folder_ + "/train.jsonl", "{}\n{}\n{}\n"), absl::OkStatus());
  std::vector<std::string> sets = {"stage=rlaif",
                                   "reward.verifiers=[]",
                                   "model.path=" + folder_ + "/model",
                                   "generator.kv_cache_bytes=8000000",
                                   "rlaif.constitution=" + folder_ + "/rules.yaml",
                                   "rlaif.train=reward_model",
                                   "rlaif.revisions=2",
                                   "rlaif.answers_per_prompt=3",
                                   absl::StrCat("data.train=[{path: ", folder_, "/train.jsonl}]")};
  const Explanation explanation = Explain(Load(sets));
  std::vector<std::string> steps;
  for (const Line& line : explanation.chain) steps.push_back(line.name);
  EXPECT_THAT(steps, ElementsAre("1-answers", "2-revisions", "3-sft", "4-samples", "5-preferences",
                                 "6-reward_model", "7-ppo"));
  EXPECT_THAT(explanation.chain[1].text, HasSubstr("3 prompts × 2 rounds × 2 calls = 12"));
  EXPECT_THAT(explanation.chain[4].text,
              HasSubstr("3 prompts × 2 pairs × 1 principles × 2 orders = 12 calls"));
  // The stages at work one after the other: never all models at once.
  const std::string text = FormatText(explanation);
  EXPECT_THAT(text,
              AllOf(HasSubstr("steps, one after the other"), HasSubstr("7-ppo: learner: critic"),
                    HasSubstr("3-sft: loss"), HasSubstr("most at once")));
  int64_t ppo = 0;
  for (const ModelMemory& model : explanation.models) {
    EXPECT_EQ(model.unknown, "") << model.name;
    if (model.phase == "7-ppo") ppo += model.estimate.Total() * model.copies;
  }
  EXPECT_THAT(text, HasSubstr(absl::StrCat("most at once      ", inspect::HumanBytes(ppo))));
  EXPECT_THAT(explanation.warnings, IsEmpty());

  sets.push_back("rlaif.max_prompts=2");
  EXPECT_THAT(Explain(Load(sets)).chain[0].text, HasSubstr("2 prompts once each"));
}

TEST_F(ExplainTest, WritesTheSameAsJson) {
  const auto json = nlohmann::json::parse(FormatJson(Explain(Load(
      {"model.path=" + folder_ + "/model", "sampling.top_p=0.5", "data.max_prompt_tokens=100"}))));
  EXPECT_EQ(json["stage"], "rl");
  EXPECT_EQ(json["preset"], "grpo");
  EXPECT_EQ(json["batch"]["sequences"], 256);
  EXPECT_EQ(json["models"][0]["items"][0]["bytes"], kParameters * 4);
  EXPECT_EQ(json["trained"]["trained"], kParameters);
  ASSERT_EQ(json["warnings"].size(), 1u) << json["warnings"];
  EXPECT_EQ(json["warnings"][0]["id"], "uncorrected_sampling");
  EXPECT_EQ(json["warnings"][0]["field"], "sampling.top_p");
}

// Every ready recipe explains itself, and none of them is a bad combination.
TEST(ReadyConfigsTest, ExplainThemselvesWithoutWarnings) {
  const char* source = std::getenv("ROLLCALL_SOURCE_DIR");
  ASSERT_NE(source, nullptr);
  int seen = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(source) + "/configs")) {
    if (entry.path().extension() != ".yaml") continue;
    ++seen;
    const auto config = config::LoadRunConfig(entry.path().string());
    ASSERT_TRUE(config.ok()) << config.status();
    const Explanation explanation = Explain(*config);
    EXPECT_FALSE(explanation.objective.empty()) << entry.path();
    EXPECT_FALSE(explanation.models.empty()) << entry.path();
    EXPECT_THAT(explanation.warnings, IsEmpty())
        << entry.path() << ": " << explanation.warnings.front().id;
    EXPECT_TRUE(nlohmann::json::accept(FormatJson(explanation)));
  }
  EXPECT_GE(seen, 4);
}

}  // namespace
}  // namespace rollcall::explain
