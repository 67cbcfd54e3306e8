#include "common/model/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace rollcall::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using Json = nlohmann::json;

Json Minimal() {
  return {{"model_type", "llama"},    {"vocab_size", 320},      {"hidden_size", 64},
          {"intermediate_size", 112}, {"num_hidden_layers", 3}, {"num_attention_heads", 4},
          {"num_key_value_heads", 2}};
}

absl::StatusOr<ModelConfig> Parse(const Json& json) {
  return ModelConfig::FromJson(json.dump(), "m/config.json");
}

std::vector<float> Frequencies(const ModelConfig& config) {
  return RopeFrequencies(config.rope, config.RotaryDim(), config.max_position_embeddings);
}

TEST(ModelConfigTest, DefaultsAreThoseOfTransformers) {
  const auto config = Parse(Minimal());
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->num_kv_heads, 2);
  EXPECT_EQ(config->max_position_embeddings, 2048);
  EXPECT_EQ(config->rms_norm_eps, 1e-6);
  EXPECT_EQ(config->rope.theta, 10000.0);
  EXPECT_FALSE(config->tie_word_embeddings);
  EXPECT_EQ(config->bos_token_id, 1);
  EXPECT_EQ(config->pad_token_id, std::nullopt);
  EXPECT_THAT(config->eos_token_ids, ElementsAre(2));
  EXPECT_EQ(config->dtype, "float32");
}

TEST(ModelConfigTest, BothLayoutsMeanTheSameModel) {
  Json scaling = {{"rope_type", "llama3"},
                  {"factor", 8.0},
                  {"low_freq_factor", 1.0},
                  {"high_freq_factor", 4.0},
                  {"original_max_position_embeddings", 32}};
  Json old_layout = Minimal(), new_layout = Minimal();
  old_layout["rope_theta"] = 5e5;
  old_layout["rope_scaling"] = scaling;
  old_layout["torch_dtype"] = "bfloat16";
  scaling["rope_theta"] = 5e5;
  new_layout["rope_parameters"] = scaling;
  new_layout["dtype"] = "bfloat16";
  const auto a = Parse(old_layout), b = Parse(new_layout);
  ASSERT_TRUE(a.ok() && b.ok()) << a.status().message() << b.status().message();
  EXPECT_EQ(a->rope.scaling.type, RopeScaling::Type::kLlama3);
  EXPECT_EQ(Frequencies(*a), Frequencies(*b));
  EXPECT_EQ(a->dtype, "bfloat16");
  EXPECT_EQ(b->dtype, "bfloat16");
}

TEST(ModelConfigTest, RopeFrequencies) {
  Json json = Minimal();
  json["head_dim"] = 4;
  EXPECT_THAT(Frequencies(*Parse(json)), ElementsAre(1.0f, 0.01f));
  json["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
  EXPECT_THAT(Frequencies(*Parse(json)), ElementsAre(0.5f, 0.005f));
  // 1 rad a token turns 5.1 times in 32 tokens: kept. 0.01 turns 0.05 times: divided by the factor.
  json["rope_scaling"] = {{"rope_type", "llama3"},
                          {"factor", 8.0},
                          {"low_freq_factor", 1.0},
                          {"high_freq_factor", 4.0},
                          {"original_max_position_embeddings", 32}};
  EXPECT_THAT(Frequencies(*Parse(json)), ElementsAre(1.0f, 0.00125f));
}

TEST(ModelConfigTest, EosTokens) {
  Json json = Minimal();
  json["eos_token_id"] = {5, 7};
  EXPECT_THAT(Parse(json)->eos_token_ids, ElementsAre(5, 7));
  json["eos_token_id"] = nullptr;
  EXPECT_TRUE(Parse(json)->eos_token_ids.empty());
  json["eos_token_id"] = 320;
  EXPECT_THAT(Parse(json).status().message(),
              HasSubstr("eos_token_id: expected less than vocab_size, got 320"));
}

TEST(ModelConfigTest, OriginalTextIsKept) {
  const std::string text = Minimal().dump(7) + " \n";
  EXPECT_EQ(ModelConfig::FromJson(text, "x")->ToJson(), text);
}

TEST(ModelConfigTest, WrittenConfigReadsBack) {
  ModelConfig config = *Parse(Minimal());
  config.original_json.clear();
  config.rope.scaling = {RopeScaling::Type::kLlama3, 8, 1, 4, 32};
  config.eos_token_ids = {3, 4};
  config.bos_token_id.reset();
  config.tie_word_embeddings = true;
  const auto again = ModelConfig::FromJson(config.ToJson(), "x");
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(Frequencies(*again), Frequencies(config));
  EXPECT_THAT(again->eos_token_ids, ElementsAre(3, 4));
  EXPECT_EQ(again->bos_token_id, std::nullopt);
  EXPECT_TRUE(again->tie_word_embeddings);
  EXPECT_EQ(again->ParameterCount(), config.ParameterCount());
}

TEST(ModelConfigTest, EveryRopeTypeReadsBack) {
  using Type = RopeScaling::Type;
  const std::vector<RopeScaling> scalings = {
      {.type = Type::kDefault},
      {.type = Type::kLinear, .factor = 3},
      {.type = Type::kLlama3, .factor = 8, .original_max_position_embeddings = 32},
      {.type = Type::kDynamic, .factor = 3, .original_max_position_embeddings = 2048},
      {.type = Type::kYarn,
       .factor = 3,
       .original_max_position_embeddings = 64,
       .beta_fast = 20,
       .truncate = false,
       .attention_factor = 1.25},
      {.type = Type::kLongRope,
       .original_max_position_embeddings = 4096,
       .attention_factor = 1.5,
       .short_factor = std::vector<double>(8, 2.0),
       .long_factor = std::vector<double>(8, 4.0)}};
  for (const RopeScaling& scaling : scalings) {
    ModelConfig config = *Parse(Minimal());
    config.original_json.clear();
    config.rope.scaling = scaling;
    const auto again = ModelConfig::FromJson(config.ToJson(), "x");
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->rope.scaling.type, scaling.type);
    EXPECT_EQ(again->rope.scaling.attention_factor, scaling.attention_factor);
    EXPECT_EQ(Frequencies(*again), Frequencies(config));
  }
}

struct Refusal {
  const char* field;
  Json value;
  absl::StatusCode code;
  const char* message;
};

TEST(ModelConfigTest, RefusalsNameFileFieldAndValue) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
  const std::vector<Refusal> refusals = {
      {"model_type", "gpt2", kUnimplemented, "model_type: \"gpt2\" is not supported"},
      {"architectures", {"Qwen2ForCausalLM"}, kUnimplemented, "architectures: "},
      {"hidden_act", "gelu", kUnimplemented, "hidden_act: \"gelu\" is not supported"},
      {"attention_bias", 1, kInvalid, "attention_bias: expected true or false, got 1"},
      {"mlp_bias", "no", kInvalid, "mlp_bias: expected true or false"},
      {"partial_rotary_factor", 0.5, kUnimplemented, "partial_rotary_factor: 0.5 is not"},
      {"quantization_config", {{"bits", 4}}, kUnimplemented, "quantization_config: {\"bits\":4}"},
      {"rope_scaling",
       {{"rope_type", "proportional"}},
       kUnimplemented,
       "rope_scaling.rope_type: \"proportional\" is not supported"},
      {"rope_scaling",
       {{"rope_type", "linear"}},
       kInvalid,
       "rope_scaling.factor: expected a number, got nothing"},
      {"rope_theta", -1, kInvalid, "rope_theta: expected a number above 0, got -1"},
      {"hidden_size", nullptr, kInvalid, "hidden_size: expected an integer, got nothing"},
      {"hidden_size", "64", kInvalid, "hidden_size: expected an integer from 1"},
      {"hidden_size", 66, kInvalid, "hidden_size: expected a multiple of num_attention_heads"},
      {"num_key_value_heads", 3, kInvalid, "num_key_value_heads: expected a divisor of"},
      {"head_dim", 15, kInvalid, "head_dim: expected an even number, got 15"},
      {"vocab_size", 1e30, kInvalid, "vocab_size: expected an integer"},
      {"torch_dtype", "int8", kUnimplemented, "torch_dtype: \"int8\" is not supported"},
      {"tie_word_embeddings", "yes", kInvalid, "tie_word_embeddings: expected true or false"},
  };
  for (const Refusal& refusal : refusals) {
    Json json = Minimal();
    json[refusal.field] = refusal.value;
    const absl::Status status = Parse(json).status();
    EXPECT_EQ(status.code(), refusal.code) << refusal.field << ": " << status.message();
    EXPECT_THAT(std::string(status.message()),
                StartsWith(std::string("m/config.json: ") + refusal.message));
  }
  EXPECT_EQ(ModelConfig::FromJson("{", "x").status().code(), kInvalid);
  EXPECT_EQ(ModelConfig::FromJson("[]", "x").status().code(), kInvalid);
}

}  // namespace
}  // namespace rollcall::model
