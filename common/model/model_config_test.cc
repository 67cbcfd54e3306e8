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

TEST(ModelConfigTest, DefaultsAreThoseOfTransformers) {
  const auto config = Parse(Minimal());
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->num_kv_heads, 2);
  EXPECT_EQ(config->max_position_embeddings, 2048);
  EXPECT_EQ(config->rms_norm_eps, 1e-6);
  EXPECT_EQ(config->rope_theta, 10000.0);
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
  EXPECT_EQ(a->rope_scaling.type, RopeScaling::Type::kLlama3);
  EXPECT_EQ(RopeFrequencies(*a), RopeFrequencies(*b));
  EXPECT_EQ(a->dtype, "bfloat16");
  EXPECT_EQ(b->dtype, "bfloat16");
}

TEST(ModelConfigTest, RopeFrequencies) {
  Json json = Minimal();
  json["head_dim"] = 4;
  EXPECT_THAT(RopeFrequencies(*Parse(json)), ElementsAre(1.0f, 0.01f));
  json["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
  EXPECT_THAT(RopeFrequencies(*Parse(json)), ElementsAre(0.5f, 0.005f));
  // 1 rad a token turns 5.1 times in 32 tokens: kept. 0.01 turns 0.05 times: divided by the factor.
  json["rope_scaling"] = {{"rope_type", "llama3"},
                          {"factor", 8.0},
                          {"low_freq_factor", 1.0},
                          {"high_freq_factor", 4.0},
                          {"original_max_position_embeddings", 32}};
  EXPECT_THAT(RopeFrequencies(*Parse(json)), ElementsAre(1.0f, 0.00125f));
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
  config.rope_scaling = {RopeScaling::Type::kLlama3, 8, 1, 4, 32};
  config.eos_token_ids = {3, 4};
  config.bos_token_id.reset();
  config.tie_word_embeddings = true;
  const auto again = ModelConfig::FromJson(config.ToJson(), "x");
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(RopeFrequencies(*again), RopeFrequencies(config));
  EXPECT_THAT(again->eos_token_ids, ElementsAre(3, 4));
  EXPECT_EQ(again->bos_token_id, std::nullopt);
  EXPECT_TRUE(again->tie_word_embeddings);
  EXPECT_EQ(again->ParameterCount(), config.ParameterCount());
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
      {"model_type", "qwen3", kUnimplemented, "model_type: \"qwen3\" is not supported"},
      {"architectures", {"LlamaForSequenceClassification"}, kUnimplemented, "architectures: "},
      {"hidden_act", "gelu", kUnimplemented, "hidden_act: \"gelu\" is not supported"},
      {"attention_bias", true, kUnimplemented, "attention_bias: true is not supported"},
      {"mlp_bias", true, kUnimplemented, "mlp_bias: true is not supported"},
      {"quantization_config", {{"bits", 4}}, kUnimplemented, "quantization_config: {\"bits\":4}"},
      {"rope_scaling",
       {{"rope_type", "yarn"}},
       kUnimplemented,
       "rope_scaling.rope_type: \"yarn\" is not supported"},
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
