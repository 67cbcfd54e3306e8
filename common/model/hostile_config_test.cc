// config.json with wrong, huge, negative and absent values: each is one error that names the file
// and a field, or a model whose sizes can be trusted. Run longer under AddressSanitizer:
// ROLLCALL_FUZZ_ROUNDS=1000000 build/asan/bin/model_test --gtest_filter=Hostile*

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/model/families/family.h"
#include "common/model/parameter_list.h"
#include "common/model/random_config.h"

namespace rollcall::model {
namespace {

using Json = nlohmann::json;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

uint64_t Rounds(uint64_t fast) {
  const char* asked = std::getenv("ROLLCALL_FUZZ_ROUNDS");
  return asked == nullptr ? fast : std::strtoull(asked, nullptr, 10);
}

const std::vector<Json>& OddValues() {
  static const std::vector<Json> values = {nullptr,
                                           true,
                                           false,
                                           "",
                                           "text",
                                           "\xff",
                                           std::string(100'000, 'x'),
                                           -1,
                                           0,
                                           1,
                                           2,
                                           3,
                                           7,
                                           0.5,
                                           -0.0,
                                           1e-300,
                                           1e308,
                                           1 << 24,
                                           (1 << 24) + 1,
                                           2147483648,
                                           9007199254740993,
                                           std::numeric_limits<int64_t>::max(),
                                           std::numeric_limits<int64_t>::min(),
                                           std::numeric_limits<uint64_t>::max(),
                                           Json::array(),
                                           Json::object(),
                                           Json::array({1}),
                                           Json::array({"full_attention"}),
                                           Json::array({nullptr, {}}),
                                           Json({{"a", 1}}),
                                           Json({{"rope_type", "yarn"}, {"factor", -4}}),
                                           Json({{"rope_type", 7}}),
                                           Json({{"type", "linear"}}),
                                           Json({{"full_attention", 3}})};
  return values;
}

// What a caller does next with a configuration that was accepted.
void ExpectUsable(const ModelConfig& config, const std::string& text) {
  EXPECT_TRUE(config.Validate().ok()) << text;
  EXPECT_GT(config.ParameterCount(), 0) << text;
  EXPECT_EQ(config.num_heads % config.num_kv_heads, 0) << text;
  EXPECT_GE(config.max_position_embeddings, 1) << text;
  const auto frequencies =
      RopeFrequencies(config.rope, config.RotaryDim(), config.max_position_embeddings);
  EXPECT_EQ(frequencies.size(), static_cast<size_t>(config.RotaryDim() / 2)) << text;
}

void ExpectJudged(const Json& json) {
  const std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  const auto config = ModelConfig::FromJson(text, "a/config.json");
  if (config.ok()) return ExpectUsable(*config, text);
  const std::string message(config.status().message());
  EXPECT_THAT(message, StartsWith("a/config.json: ")) << text;
  EXPECT_THAT(message, AnyOf(HasSubstr(": expected "), HasSubstr(" is not supported"))) << message;
  EXPECT_LT(message.size(), 1000u);
}

TEST(HostileConfigTest, EveryFieldWithEveryOddValue) {
  for (const Family* family : Families()) {
    PhiloxStream random(7, 1);
    const Json good = testing::RandomConfigJson(family->model_type, random);
    for (const auto& [field, value] : good.items()) {
      Json absent = good;
      absent.erase(field);
      ExpectJudged(absent);
      for (const Json& odd : OddValues()) {
        Json json = good;
        json[field] = odd;
        ExpectJudged(json);
      }
    }
  }
}

// Several at once, also fields that this configuration lacks and those inside of objects.
TEST(HostileConfigTest, ManyFieldsAtOnce) {
  static const char* const kOthers[] = {"rope_scaling",
                                        "rope_parameters",
                                        "layer_types",
                                        "quantization_config",
                                        "head_dim",
                                        "sliding_window",
                                        "id2label",
                                        "num_labels",
                                        "mlp_only_layers",
                                        "no_rope_layers",
                                        "no_rope_layer_interval",
                                        "partial_rotary_factor",
                                        "torch_dtype",
                                        "dtype",
                                        "hidden_act",
                                        "original_max_position_embeddings",
                                        "decoder_sparse_step",
                                        "rope_local_base_freq"};
  const auto families = Families();
  for (uint64_t i = 0; i < Rounds(5'000); ++i) {
    PhiloxStream random(8, i);
    Json json = testing::RandomConfigJson(families[i % families.size()]->model_type, random);
    for (uint64_t j = random.Below(4); j < 4; ++j) {
      const Json& odd = OddValues()[random.Below(OddValues().size())];
      auto place = json.begin();
      std::advance(place, static_cast<int64_t>(random.Below(json.size())));
      if (random.Below(3) == 0) {
        json[kOthers[random.Below(std::size(kOthers))]] = odd;
      } else if (place->is_object() && !place->empty()) {
        place->begin().value() = odd;
      } else if (place.key() != "model_type") {
        *place = odd;
      }
    }
    ExpectJudged(json);
    if (::testing::Test::HasFailure()) FAIL() << "round " << i;
  }
}

TEST(HostileConfigTest, SizesThatNoMemoryHoldsAreRefusedBeforeAnythingIsMade) {
  PhiloxStream random(9, 1);
  Json json = testing::RandomConfigJson("llama", random);
  json["num_hidden_layers"] = 1 << 24;
  EXPECT_THAT(std::string(ModelConfig::FromJson(json.dump(), "c").status().message()),
              HasSubstr("num_hidden_layers: expected a model of at most 1e+06 tensors"));
  json["num_hidden_layers"] = 1000;
  for (const char* field : {"hidden_size", "intermediate_size", "vocab_size"}) {
    json[field] = 1 << 24;
  }
  EXPECT_THAT(std::string(ModelConfig::FromJson(json.dump(), "c").status().message()),
              HasSubstr("hidden_size: expected a model of at most 1e+14 parameters"));
}

}  // namespace
}  // namespace rollcall::model
