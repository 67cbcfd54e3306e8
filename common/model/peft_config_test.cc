#include "common/model/peft_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "common/model/test_models.h"

namespace rollcall::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

// As PEFT 0.21 writes it.
Json Example() {
  return Json::parse(R"({
    "task_type": "CAUSAL_LM", "peft_type": "LORA", "auto_mapping": null, "peft_version": "0.21.2",
    "base_model_name_or_path": "org/base", "revision": null, "inference_mode": true, "r": 4,
    "target_modules": ["v_proj", "q_proj"], "exclude_modules": null, "lora_alpha": 8,
    "lora_dropout": 0.05, "fan_in_fan_out": false, "bias": "none", "use_rslora": true,
    "modules_to_save": null, "init_lora_weights": true, "layers_to_transform": null,
    "layers_pattern": null, "rank_pattern": {}, "alpha_pattern": {}, "megatron_config": null,
    "megatron_core": "megatron.core", "trainable_token_indices": null, "loftq_config": {},
    "eva_config": null, "use_dora": false, "use_qalora": false, "qalora_group_size": 16,
    "layer_replication": null, "lora_bias": false, "target_parameters": null})");
}

absl::StatusOr<LoraConfig> Read(const Json& json, Head head = Head::kLanguageModel) {
  ModelConfig config = testing::SmallConfig();
  config.head = head;
  return ReadPeftConfig(json.dump(), "dir/adapter_config.json", config);
}

TEST(PeftConfigTest, ReadsWhatPeftWrites) {
  const auto lora = Read(Example());
  ASSERT_TRUE(lora.ok()) << lora.status();
  EXPECT_EQ(lora->r, 4);
  EXPECT_EQ(lora->alpha, 8);
  EXPECT_TRUE(lora->rslora);
  EXPECT_THAT(lora->target_modules, ElementsAre("q_proj", "v_proj"));
  EXPECT_EQ(lora->base_model, "org/base");

  Json all = Example();
  all["target_modules"] = "all-linear";
  EXPECT_EQ(Read(all)->target_modules.size(), 7u);
}

TEST(PeftConfigTest, WhatIsWrittenIsReadBack) {
  LoraConfig lora{.r = 3,
                  .alpha = 2.5,
                  .rslora = false,
                  .target_modules = {"k_proj", "up_proj"},
                  .base_model = "a/b"};
  for (const Head head : {Head::kLanguageModel, Head::kSequenceScore}) {
    const auto again = Read(Json::parse(PeftConfigJson(lora, head)), head);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_TRUE(again->SameFunction(lora));
    EXPECT_EQ(again->base_model, "a/b");
  }
  EXPECT_EQ(Json::parse(PeftConfigJson(lora, Head::kSequenceScore))["modules_to_save"],
            Json::array({"score"}));
  EXPECT_EQ(CanonicalAdapterConfig(lora),
            R"({"lora_alpha":2.5,"peft_type":"LORA","r":3,"target_modules":["k_proj","up_proj"],)"
            R"("use_rslora":false})");
  EXPECT_TRUE(Read(Json::parse(CanonicalAdapterConfig(lora)))->SameFunction(lora));
}

TEST(PeftConfigTest, WhatIsNotOfferedIsRefusedByItsName) {
  const std::pair<const char*, Json> cases[] = {
      {"use_dora", true},
      {"rank_pattern", {{"q_proj", 8}}},
      {"alpha_pattern", {{"q_proj", 8}}},
      {"layers_to_transform", {0}},
      {"layer_replication", {{0, 1}}},
      {"bias", "all"},
      {"lora_bias", true},
      {"fan_in_fan_out", true},
      {"modules_to_save", {"lm_head"}},
      {"exclude_modules", {"k_proj"}},
      {"target_modules", "model.*q_proj"},
      {"trainable_token_indices", {1, 2}},
      {"target_parameters", {"experts"}},
      {"init_lora_weights", "pissa"},
      {"loftq_config", {{"loftq_bits", 4}}},
      {"some_later_invention", 1},
      {"peft_type", "IA3"},
  };
  for (const auto& [field, value] : cases) {
    Json json = Example();
    json[field] = value;
    const absl::Status status = Read(json).status();
    EXPECT_TRUE(absl::IsUnimplemented(status)) << field << ": " << status;
    EXPECT_THAT(status.message(), HasSubstr(std::string("dir/adapter_config.json: ") + field));
  }
}

TEST(PeftConfigTest, WhatIsWrongIsSaidWithItsPlace) {
  const auto message = [](const Json& json) { return std::string(Read(json).status().message()); };
  EXPECT_THAT(message(Json::array()), HasSubstr("dir/adapter_config.json: expected a JSON object"));
  const std::pair<const char*, Json> cases[] = {{"r", 0},
                                                {"r", nullptr},
                                                {"lora_alpha", -1},
                                                {"target_modules", nullptr},
                                                {"target_modules", {1}},
                                                {"use_rslora", "yes"},
                                                {"peft_type", nullptr}};
  for (const auto& [field, value] : cases) {
    Json json = Example();
    json[field] = value;
    EXPECT_TRUE(absl::IsInvalidArgument(Read(json).status())) << field;
    EXPECT_THAT(message(json), HasSubstr(std::string("dir/adapter_config.json: ") + field));
  }
  Json json = Example();
  json["target_modules"] = {"c_attn"};
  EXPECT_THAT(message(json),
              HasSubstr("dir/adapter_config.json: target_modules: \"c_attn\" names no matrix"));
}

}  // namespace
}  // namespace rollcall::model
