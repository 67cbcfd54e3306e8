// What each family makes of its config.json: both layouts, the defaults of absent fields, the order
// and names of tensors, and what is refused.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "common/model/families/family.h"
#include "common/model/parameter_list.h"

namespace rollcall::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;
using Json = nlohmann::json;

Json Base(const char* model_type, int layers = 4) {
  return {{"model_type", model_type},
          {"vocab_size", 100},
          {"hidden_size", 32},
          {"intermediate_size", 48},
          {"num_hidden_layers", layers},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 8},
          {"max_position_embeddings", 128}};
}

ModelConfig Read(const Json& json) {
  const auto config = ModelConfig::FromJson(json.dump(), "config.json");
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : ModelConfig();
}

std::string Refusal(const Json& json) {
  const absl::Status status = ModelConfig::FromJson(json.dump(), "config.json").status();
  EXPECT_FALSE(status.ok()) << json.dump();
  return std::string(status.message());
}

std::vector<bool> SlidingLayers(const ModelConfig& config) {
  std::vector<bool> layers;
  for (int64_t i = 0; i < config.num_layers; ++i) layers.push_back(config.Layer(i).sliding);
  return layers;
}

std::vector<std::string> Names(const ModelConfig& config) {
  std::vector<std::string> names;
  for (const ParameterSpec& spec : ParametersOf(config)) names.push_back(spec.name);
  return names;
}

std::vector<float> Frequencies(const ModelConfig& config) {
  return RopeFrequencies(config.rope, config.RotaryDim(), config.max_position_embeddings);
}

TEST(FamiliesTest, EveryRowOfTheTableReadsAPlainConfig) {
  for (const Family* family : Families()) {
    SCOPED_TRACE(family->model_type);
    EXPECT_EQ(FindFamily(family->model_type), family);
    const ModelConfig config = Read(Base(family->model_type));
    EXPECT_EQ(config.family, family->model_type);
    EXPECT_GT(config.ParameterCount(), 0);
    for (const char* suffix : {"ForSequenceClassification", "ForTokenClassification"}) {
      Json json = Base(family->model_type);
      json["architectures"] = {std::string(family->score_prefix) + suffix};
      json["id2label"] = {{"0", "LABEL_0"}};
      EXPECT_THAT(Names(Read(json)).back(), suffix[3] == 'S' ? "score.weight" : "score.bias");
    }
  }
  EXPECT_EQ(FindFamily("gpt2"), nullptr);
}

TEST(MistralTest, TheWindowIsThatOfEveryLayer) {
  EXPECT_EQ(Read(Base("mistral")).sliding_window, 4096);
  Json json = Base("mistral");
  json["sliding_window"] = nullptr;
  EXPECT_THAT(SlidingLayers(Read(json)), ElementsAre(false, false, false, false));
  json["sliding_window"] = 7;
  EXPECT_THAT(SlidingLayers(Read(json)), ElementsAre(true, true, true, true));
  json["layer_types"] = {"sliding_attention", "sliding_attention", "sliding_attention",
                         "sliding_attention"};
  EXPECT_EQ(Read(json).sliding_window, 7);
  json["layer_types"][2] = "full_attention";
  EXPECT_THAT(Refusal(json), HasSubstr("layer_types: "));
  json["layer_types"] = {"sliding_attention"};
  EXPECT_THAT(Refusal(json), HasSubstr("layer_types: expected a list of 4 strings"));
}

TEST(QwenTest, WindowOnRequestInBothLayouts) {
  for (const char* type : {"qwen2", "qwen3"}) {
    Json old_layout = Base(type);
    old_layout["sliding_window"] = 16;
    EXPECT_EQ(Read(old_layout).sliding_window, 0) << "use_sliding_window is false by default";
    old_layout["use_sliding_window"] = true;
    EXPECT_EQ(Read(old_layout).sliding_window, 0) << "max_window_layers is 28 by default";
    old_layout["max_window_layers"] = 3;
    EXPECT_THAT(SlidingLayers(Read(old_layout)), ElementsAre(false, false, false, true));
    Json new_layout = Base(type);
    new_layout["use_sliding_window"] = true;
    new_layout["sliding_window"] = 16;
    new_layout["layer_types"] = {"full_attention", "full_attention", "full_attention",
                                 "sliding_attention"};
    EXPECT_THAT(SlidingLayers(Read(new_layout)), ElementsAre(false, false, false, true));
    new_layout["use_sliding_window"] = false;
    EXPECT_THAT(Refusal(new_layout), HasSubstr("sliding_window: expected an integer from 1"));
    new_layout["layer_types"][1] = "linear_attention";
    EXPECT_THAT(Refusal(new_layout), HasSubstr("layer_types: \"linear_attention\" is not supp"));
  }
}

TEST(QwenTest, BiasesAndNorms) {
  const std::vector<std::string> qwen2 = Names(Read(Base("qwen2", 1)));
  EXPECT_THAT(qwen2, IsSupersetOf({"model.layers.0.self_attn.q_proj.bias",
                                   "model.layers.0.self_attn.v_proj.bias"}));
  EXPECT_EQ(std::count(qwen2.begin(), qwen2.end(), "model.layers.0.self_attn.o_proj.bias"), 0);
  const ModelConfig qwen3 = Read(Base("qwen3", 1));
  EXPECT_EQ(qwen3.qk_norm, QkNorm::kPerHead);
  EXPECT_THAT(
      Names(qwen3),
      ElementsAre(
          "model.embed_tokens.weight", "model.layers.0.input_layernorm.weight",
          "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight",
          "model.layers.0.self_attn.v_proj.weight", "model.layers.0.self_attn.o_proj.weight",
          "model.layers.0.self_attn.q_norm.weight", "model.layers.0.self_attn.k_norm.weight",
          "model.layers.0.post_attention_layernorm.weight", "model.layers.0.mlp.gate_proj.weight",
          "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight",
          "model.norm.weight", "lm_head.weight"));
  Json json = Base("qwen3");
  json.erase("head_dim");
  EXPECT_EQ(Read(json).head_dim, 128);
}

TEST(ExpertsTest, NamesAreThoseOfTheFile) {
  Json mixtral = Base("mixtral", 1);
  mixtral["num_local_experts"] = 2;
  mixtral["tie_word_embeddings"] = true;
  const ModelConfig config = Read(mixtral);
  EXPECT_TRUE(config.normalize_expert_weights);
  EXPECT_EQ(config.rope.theta, 1e6);
  const std::vector<std::string> names = Names(config);
  EXPECT_THAT(std::vector<std::string>(names.begin() + 7, names.end() - 1),
              ElementsAre("model.layers.0.block_sparse_moe.gate.weight",
                          "model.layers.0.block_sparse_moe.experts.0.w1.weight",
                          "model.layers.0.block_sparse_moe.experts.0.w3.weight",
                          "model.layers.0.block_sparse_moe.experts.0.w2.weight",
                          "model.layers.0.block_sparse_moe.experts.1.w1.weight",
                          "model.layers.0.block_sparse_moe.experts.1.w3.weight",
                          "model.layers.0.block_sparse_moe.experts.1.w2.weight"));
  mixtral["router_jitter_noise"] = 0.1;
  EXPECT_THAT(Refusal(mixtral), HasSubstr("router_jitter_noise: 0.1 is not supported"));
}

TEST(ExpertsTest, QwenChoosesWhichLayersHaveThem) {
  Json json = Base("qwen3_moe");
  EXPECT_EQ(Read(json).num_experts, 128);
  EXPECT_FALSE(Read(json).normalize_expert_weights);
  json["num_experts"] = 8;
  json["num_experts_per_tok"] = 3;
  json["moe_intermediate_size"] = 20;
  json["norm_topk_prob"] = true;
  json["decoder_sparse_step"] = 2;
  json["mlp_only_layers"] = {3};
  const ModelConfig config = Read(json);
  EXPECT_TRUE(config.normalize_expert_weights);
  std::vector<bool> layers;
  for (int64_t i = 0; i < 4; ++i) layers.push_back(config.Layer(i).experts);
  EXPECT_THAT(layers, ElementsAre(false, true, false, false));
  EXPECT_THAT(Names(config),
              IsSupersetOf({"model.layers.0.mlp.gate_proj.weight", "model.layers.1.mlp.gate.weight",
                            "model.layers.1.mlp.experts.7.down_proj.weight"}));
  json["num_experts_per_tok"] = 9;
  EXPECT_THAT(Refusal(json), HasSubstr("num_experts_per_tok: expected an integer from 1"));
  json["mlp_only_layers"] = "all";
  EXPECT_THAT(Refusal(json), HasSubstr("mlp_only_layers: expected a list"));
}

TEST(GemmaTest, Gemma2HasCapsWindowsAndFourNorms) {
  const ModelConfig config = Read(Base("gemma2"));
  EXPECT_TRUE(config.unit_offset_norm && config.tie_word_embeddings);
  EXPECT_EQ(config.activation, kernels::Activation::kGeluTanh);
  EXPECT_EQ(config.attention_softcap, 50.0);
  EXPECT_EQ(config.final_softcap, 30.0);
  EXPECT_EQ(config.attention_scale, 1.0 / 16);
  EXPECT_EQ(config.embedding_scale, std::sqrt(32.0));
  EXPECT_THAT(SlidingLayers(config), ElementsAre(true, false, true, false));
  EXPECT_THAT(Names(config), IsSupersetOf({"model.layers.3.input_layernorm.weight",
                                           "model.layers.3.post_attention_layernorm.weight",
                                           "model.layers.3.pre_feedforward_layernorm.weight",
                                           "model.layers.3.post_feedforward_layernorm.weight"}));
  Json json = Base("gemma2");
  json["attn_logit_softcapping"] = nullptr;
  json["final_logit_softcapping"] = nullptr;
  EXPECT_EQ(Read(json).attention_softcap, 0.0);
  EXPECT_EQ(Read(json).final_softcap, 0.0);
  json["hidden_act"] = "gelu";
  EXPECT_EQ(Read(json).activation, kernels::Activation::kGeluTanh) << "another field decides";
  json["hidden_activation"] = "gelu";
  EXPECT_THAT(Refusal(json), HasSubstr("hidden_activation: \"gelu\" is not supported"));
  json.erase("hidden_activation");
  json["use_bidirectional_attention"] = true;
  EXPECT_THAT(Refusal(json), HasSubstr("use_bidirectional_attention: true is not supported"));
}

TEST(GemmaTest, Gemma3HasTwoRopesInBothLayouts) {
  Json old_layout = Base("gemma3_text", 7);
  const ModelConfig plain = Read(old_layout);
  EXPECT_EQ(plain.rope.theta, 1e6);
  EXPECT_EQ(plain.sliding_rope->theta, 1e4);
  EXPECT_THAT(SlidingLayers(plain), ElementsAre(true, true, true, true, true, false, true));
  EXPECT_EQ(plain.attention_softcap, 0.0);

  old_layout["rope_theta"] = 5e5;
  old_layout["rope_local_base_freq"] = 300.0;
  old_layout["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
  old_layout["sliding_window_pattern"] = 2;
  old_layout["sliding_window"] = 10;
  Json new_layout = Base("gemma3_text", 7);
  new_layout["sliding_window"] = 10;
  new_layout["layer_types"] = Json::array();
  for (int i = 0; i < 7; ++i) {
    new_layout["layer_types"].push_back(i % 2 == 0 ? "sliding_attention" : "full_attention");
  }
  new_layout["rope_parameters"] = {
      {"full_attention", {{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 5e5}}},
      {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 300.0}}}};
  const ModelConfig a = Read(old_layout), b = Read(new_layout);
  EXPECT_EQ(SlidingLayers(a), SlidingLayers(b));
  EXPECT_EQ(Frequencies(a), Frequencies(b));
  EXPECT_EQ(a.sliding_rope->theta, 300.0);
  EXPECT_EQ(b.sliding_rope->theta, 300.0);
  EXPECT_EQ(b.sliding_rope->scaling.type, RopeScaling::Type::kDefault);

  new_layout["rope_parameters"]["rope_theta"] = 1.0;
  EXPECT_THAT(Refusal(new_layout), HasSubstr("rope_parameters.rope_theta: 1.0 is not supported"));
  old_layout["attn_logit_softcapping"] = 50.0;
  EXPECT_THAT(Refusal(old_layout), HasSubstr("attn_logit_softcapping: 50.0 is not supported"));
}

TEST(GemmaTest, OneRopeEachInTheOtherFamilies) {
  Json json = Base("llama");
  json["rope_parameters"] = {{"full_attention", {{"rope_theta", 5.0}}}};
  EXPECT_THAT(Refusal(json), HasSubstr("rope_parameters.full_attention: "));
}

TEST(Phi3Test, FusedProjectionsAndLongRope) {
  Json json = Base("phi3", 1);
  EXPECT_THAT(
      Names(Read(json)),
      ElementsAre("model.embed_tokens.weight", "model.layers.0.input_layernorm.weight",
                  "model.layers.0.self_attn.qkv_proj.weight",
                  "model.layers.0.self_attn.o_proj.weight",
                  "model.layers.0.post_attention_layernorm.weight",
                  "model.layers.0.mlp.gate_up_proj.weight", "model.layers.0.mlp.down_proj.weight",
                  "model.norm.weight", "lm_head.weight"));
  json["partial_rotary_factor"] = 0.5;
  json["original_max_position_embeddings"] = 32;
  json["rope_scaling"] = {
      {"type", "su"}, {"short_factor", {1.0, 2.0}}, {"long_factor", {4.0, 8.0}}};
  ModelConfig config = Read(json);
  EXPECT_EQ(config.rotary_dim, 4);
  EXPECT_EQ(config.max_position_embeddings, 32) << "beyond, the frequencies change";
  EXPECT_THAT(Frequencies(config), ElementsAre(1.0f, 0.005f));
  // sqrt(1 + ln(128 / 32) / ln 32)
  EXPECT_NEAR(config.rope.scaling.attention_factor, std::sqrt(1.4), 1e-12);
  config.SetContext(33);
  EXPECT_THAT(Frequencies(config), ElementsAre(0.25f, 0.00125f));
  json["rope_scaling"]["short_factor"] = {1.0};
  EXPECT_THAT(Refusal(json), HasSubstr("rope_scaling.short_factor: expected a list of 2 numbers"));
  json["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
  EXPECT_THAT(Refusal(json), HasSubstr("rope_scaling.type: \"linear\" is not supported"));
}

TEST(Olmo2Test, NormsStandBehind) {
  EXPECT_THAT(
      Names(Read(Base("olmo2", 1))),
      ElementsAre(
          "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight",
          "model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight",
          "model.layers.0.self_attn.o_proj.weight", "model.layers.0.self_attn.q_norm.weight",
          "model.layers.0.self_attn.k_norm.weight",
          "model.layers.0.post_attention_layernorm.weight", "model.layers.0.mlp.gate_proj.weight",
          "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight",
          "model.layers.0.post_feedforward_layernorm.weight", "model.norm.weight",
          "lm_head.weight"));
  std::map<Part, int64_t> widths;
  for (const ParameterSpec& spec : ParametersOf(Read(Base("olmo2", 1)))) {
    widths[spec.part] = spec.shape[0];
  }
  EXPECT_EQ(widths[Part::kQueryNorm], 32);
  EXPECT_EQ(widths[Part::kKeyNorm], 16);
}

TEST(SmolLm3Test, SomeLayersDoNotRotate) {
  const auto rotating = [](const ModelConfig& config) {
    std::vector<bool> layers;
    for (int64_t i = 0; i < config.num_layers; ++i) layers.push_back(config.Layer(i).rotates);
    return layers;
  };
  Json json = Base("smollm3");
  EXPECT_THAT(rotating(Read(json)), ElementsAre(true, true, true, false));
  EXPECT_TRUE(Read(json).tie_word_embeddings);
  json["no_rope_layer_interval"] = 2;
  EXPECT_THAT(rotating(Read(json)), ElementsAre(true, false, true, false));
  json["no_rope_layers"] = {0, 1, 1, 0, 1};
  json["use_sliding_window"] = true;
  json["sliding_window"] = 9;
  EXPECT_THAT(rotating(Read(json)), ElementsAre(false, true, true, false));
  EXPECT_THAT(SlidingLayers(Read(json)), ElementsAre(true, false, false, true));
  json["no_rope_layers"] = {0, 1};
  EXPECT_THAT(Refusal(json), HasSubstr("no_rope_layers: expected a list of at least 4"));
}

TEST(RopeTest, DynamicKeepsTheTrainedFrequenciesInTheTrainedContext) {
  Json json = Base("llama");
  const std::vector<float> plain = Frequencies(Read(json));
  json["rope_scaling"] = {{"type", "dynamic"}, {"factor", 2.0}};
  ModelConfig config = Read(json);
  EXPECT_EQ(Frequencies(config), plain);
  EXPECT_TRUE(config.RopeDependsOnContext());
  config.SetContext(256);
  // theta (2 * 256 / 128 - 1)^(8 / 6)
  const double theta = 10000.0 * std::pow(3.0, 8.0 / 6.0);
  for (int i = 0; i < 4; ++i) {
    EXPECT_NEAR(Frequencies(config)[i], std::pow(theta, -i / 4.0), 1e-7) << i;
  }
}

TEST(RopeTest, ARunMayChooseTheContext) {
  ModelConfig plain = Read(Base("llama"));
  EXPECT_TRUE(plain.UseContext(0).ok());
  EXPECT_EQ(plain.max_position_embeddings, 128);
  EXPECT_TRUE(plain.UseContext(50).ok());
  EXPECT_EQ(plain.max_position_embeddings, 50);
  EXPECT_THAT(std::string(plain.UseContext(129).message()),
              HasSubstr("model.context_tokens: expected at most 128"));
  Json json = Base("llama");
  json["rope_scaling"] = {{"type", "dynamic"}, {"factor", 2.0}};
  EXPECT_TRUE(Read(json).UseContext(100000).ok());
  json["rope_scaling"] = {{"type", "longrope"},
                          {"original_max_position_embeddings", 32},
                          {"short_factor", {1.0, 1.0, 1.0, 1.0}},
                          {"long_factor", {2.0, 2.0, 2.0, 2.0}}};
  ModelConfig stretched = Read(json);
  EXPECT_EQ(stretched.max_position_embeddings, 32);
  EXPECT_TRUE(stretched.UseContext(128).ok());
  EXPECT_EQ(Frequencies(stretched)[0], 0.5f);
  EXPECT_FALSE(stretched.UseContext(129).ok());
}

TEST(RopeTest, YarnBlendsByTurns) {
  Json json = Base("llama");
  json["head_dim"] = 16;
  json["rope_scaling"] = {
      {"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 64}};
  const ModelConfig config = Read(json);
  const std::vector<float> frequencies = Frequencies(config);
  // 16 ln(64 / (32 * 2 pi)) / (2 ln 10^4) < 0 -> 0, 16 ln(64 / (2 pi)) / (2 ln 10^4) = 2.02 -> 3:
  // the first frequency is kept, from the fourth on they are divided by 4.
  EXPECT_EQ(frequencies[0], 1.0f);
  for (int i = 3; i < 8; ++i) {
    EXPECT_NEAR(frequencies[i], std::pow(10.0, -i / 2.0) / 4, 1e-8) << i;
  }
  // A third of the way: 2/3 kept, 1/3 divided.
  EXPECT_NEAR(frequencies[1], std::pow(10.0, -0.5) * (2.0 / 3 + 1.0 / 12), 1e-7);
  EXPECT_NEAR(config.rope.scaling.attention_factor, 0.1 * std::log(4.0) + 1, 1e-12);
  json["rope_scaling"].update({{"mscale", 2.0}, {"mscale_all_dim", 1.0}});
  EXPECT_NEAR(Read(json).rope.scaling.attention_factor,
              (0.2 * std::log(4.0) + 1) / (0.1 * std::log(4.0) + 1), 1e-12);
  json["rope_scaling"]["attention_factor"] = 1.5;
  EXPECT_EQ(Read(json).rope.scaling.attention_factor, 1.5);
  json["rope_scaling"].erase("factor");
  EXPECT_THAT(Refusal(json), HasSubstr("rope_scaling.factor: expected a number, got nothing"));
}

TEST(HeadTest, OneLabelOnly) {
  Json json = Base("llama");
  json["architectures"] = {"LlamaForSequenceClassification"};
  EXPECT_THAT(Refusal(json), HasSubstr("num_labels: 2 is not supported; supported: 1"));
  json["id2label"] = {{"0", "a"}, {"1", "b"}, {"2", "c"}};
  EXPECT_THAT(Refusal(json), HasSubstr("num_labels: 3 is not supported"));
  json["id2label"] = {{"0", "a"}};
  const ModelConfig reward = Read(json);
  EXPECT_EQ(reward.head, Head::kSequenceScore);
  EXPECT_FALSE(reward.RequireLanguageModel().ok());
  EXPECT_EQ(Names(reward).back(), "score.weight");
  json["architectures"] = {"LlamaForTokenClassification"};
  EXPECT_EQ(Names(Read(json)).back(), "score.bias");
  json["token_classification_bias"] = false;
  EXPECT_EQ(Names(Read(json)).back(), "score.weight");
  json["architectures"] = {"LlamaForQuestionAnswering"};
  EXPECT_THAT(Refusal(json), HasSubstr("architectures: [\"LlamaForQuestionAnswering\"] is not"));
  EXPECT_TRUE(Read(Base("llama")).RequireLanguageModel().ok());
}

}  // namespace
}  // namespace rollcall::model
