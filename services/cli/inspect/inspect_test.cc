#include "services/cli/inspect/inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "common/base/file.h"
#include "common/model/model_config.h"
#include "services/cli/inspect/memory_estimate.h"

namespace rollcall::inspect {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;

struct Result {
  int exit_code;
  std::string out, errors;
};

Result Inspect(const std::vector<std::string>& arguments) {
  std::ostringstream out, errors;
  const int exit_code = RunInspect(arguments, out, errors);
  return {exit_code, out.str(), errors.str()};
}

int64_t BytesOf(const MemoryEstimate& estimate, const std::string& name) {
  for (const MemoryItem& item : estimate.items) {
    if (item.name == name) return item.bytes;
  }
  return -1;
}

// Small enough to work by hand: 10 ids of 8, one block with 2 heads of 4 over 1 key/value head and
// an MLP of 6.
model::ModelConfig Tiny() {
  model::ModelConfig config;
  config.vocab_size = 10;
  config.hidden_size = 8;
  config.intermediate_size = 6;
  config.num_layers = 1;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 4;
  config.max_position_embeddings = 64;
  return config;
}

TEST(MemoryEstimateTest, WorkedByHand) {
  // q, o: 64 each; k, v: 32 each; gate, up, down: 48 each; two norms: 16; embedding and head: 80
  // each; norm: 8.
  constexpr int64_t kParameters = 64 * 2 + 32 * 2 + 48 * 3 + 16 + 80 * 2 + 8;
  // Rows filled up to 32: q, k, v, gate, up and the head 256 each; o 256; down 32 x 6.
  constexpr int64_t kPacked = 256 * 7 + 192;
  const MemoryAssumptions floats{
      .dtype = wire::DType::kFloat32, .packed_matrices = true, .tokens = 20};
  const MemoryEstimate serve = ServingMemory(Tiny(), floats);
  EXPECT_EQ(BytesOf(serve, "weights"), kParameters * 4);
  EXPECT_EQ(BytesOf(serve, "packed matrices"), kPacked * 4);
  // 32 tokens (two blocks), keys of 4 and values filled up to 16 floats.
  EXPECT_EQ(BytesOf(serve, "KV cache"), 32 * (4 + 16) * 4);
  EXPECT_EQ(serve.Total(), kParameters * 4 + kPacked * 4 + 32 * 20 * 4);

  const MemoryAssumptions halves{
      .dtype = wire::DType::kBFloat16, .packed_matrices = false, .tokens = 20};
  const MemoryEstimate train = TrainingMemory(Tiny(), halves);
  EXPECT_EQ(BytesOf(train, "weights"), kParameters * 2);
  EXPECT_EQ(BytesOf(train, "packed matrices"), -1);
  EXPECT_EQ(BytesOf(train, "float32 masters"), kParameters * 4);
  EXPECT_EQ(BytesOf(train, "gradients"), kParameters * 4);
  EXPECT_EQ(BytesOf(train, "AdamW's moments"), kParameters * 8);
  // Per token: 4 x 8 around the norms, 2 x 8 queries and result, 2 x 4 keys and values, 3 x 6 in
  // the MLP; 2 x 8 at the end.
  EXPECT_EQ(BytesOf(train, "activations"), (32 + 16 + 8 + 18 + 16) * 2 * 20);
  EXPECT_EQ(BytesOf(TrainingMemory(Tiny(), floats), "float32 masters"), -1);
  // Two norms more around each half keep a row of 8 each.
  model::ModelConfig gemma = Tiny();
  gemma.family = "gemma2";
  EXPECT_EQ(BytesOf(TrainingMemory(gemma, halves), "activations"),
            (48 + 16 + 8 + 18 + 16) * 2 * 20);
}

TEST(MemoryEstimateTest, NumbersForAPerson) {
  EXPECT_EQ(Grouped(0), "0");
  EXPECT_EQ(Grouped(999), "999");
  EXPECT_EQ(Grouped(1000), "1,000");
  EXPECT_EQ(Grouped(-1234567), "-1,234,567");
  EXPECT_EQ(HumanBytes(1023), "1023 B");
  EXPECT_EQ(HumanBytes(1 << 20), "1.00 MiB");
  EXPECT_EQ(HumanBytes(int64_t{15} << 30), "15.0 GiB");
  EXPECT_EQ(HumanBytes(int64_t{150} << 30), "150 GiB");
}

class InspectTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* const data = getenv("ROLLCALL_TEST_DATA");
    data_ = data == nullptr ? "" : data;
    if (!std::filesystem::exists(data_ + "/stories260k")) GTEST_SKIP() << "no model at " << data_;
  }
  std::string data_;
};

TEST_F(InspectTest, DescribesARealModel) {
  const Result result = Inspect({data_ + "/stories260k", "--json", "--tokens", "100"});
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json.at("family"), "llama");
  EXPECT_EQ(json.at("offered"), true);
  EXPECT_EQ(json.at("parameters"), 260'032);
  EXPECT_EQ(json.at("tokenizer_vocabulary"), 512);
  EXPECT_EQ(json.at("eos_token_ids"), std::vector<int>{2});
  EXPECT_EQ(json.at("chat_templates"), Json::array());
  EXPECT_EQ(json.at("shapes").at("context"), 512);
  EXPECT_EQ(json.at("memory").at("serve").at("items")[0].at("bytes"), 260'032 * 4);
  const Result text = Inspect({data_ + "/stories260k", "--dtype", "bfloat16", "--device", "cuda"});
  EXPECT_THAT(
      text.out,
      AllOf(HasSubstr("5 layers, hidden 64, 8 heads of 8 over 4 key/value heads, MLP 172"),
            HasSubstr("260,032 parameters x 2 B"), HasSubstr("memory to train (bfloat16, cuda)"),
            HasSubstr("head              language model"),
            HasSubstr("attention         every layer sees all tokens"),
            HasSubstr("rope              default, theta 10,000"),
            HasSubstr("chat template     none")));
}

// What every family's description must hold, whatever the model is.
TEST_F(InspectTest, EveryFamilyIsDescribedWithItsMemory) {
  if (!std::filesystem::exists(data_ + "/golden/models")) GTEST_SKIP() << "no golden models";
  int described = 0;
  for (const auto& entry : std::filesystem::directory_iterator(data_ + "/golden/models")) {
    if (!entry.is_directory()) continue;
    SCOPED_TRACE(entry.path().string());
    const Result result = Inspect({entry.path().string(), "--tokens", "100", "--json"});
    ASSERT_EQ(result.exit_code, 0) << result.errors;
    const Json json = Json::parse(result.out);
    EXPECT_EQ(json.at("offered"), true);
    for (const char* use : {"serve", "train"}) {
      const Json items = json.at("memory").at(use).at("items");
      int64_t sum = 0;
      for (const Json& item : items) {
        EXPECT_THAT(item.at("arithmetic").get<std::string>(), HasSubstr(" x "));
        sum += item.at("bytes").get<int64_t>();
      }
      EXPECT_EQ(sum, json.at("memory").at(use).at("bytes"));
      // The files hold every parameter once.
      EXPECT_EQ(items[0].at("bytes"), json.at("parameters").get<int64_t>() * 4);
    }
    ++described;
  }
  EXPECT_GT(described, 10);
  const std::string models = data_ + "/golden/models/";
  EXPECT_THAT(Inspect({models + "mixtral"}).out,
              HasSubstr("; 2 layers with 4 experts of 64, 2 a token"));
  EXPECT_THAT(Inspect({models + "gemma3_text"}).out,
              AllOf(HasSubstr("layers see the last 10 tokens"), HasSubstr("; in sliding layers")));
  EXPECT_THAT(Inspect({models + "reward_llama"}).out, HasSubstr("a reward for each sequence"));
  EXPECT_THAT(Inspect({models + "critic_qwen2"}).out, HasSubstr("a value for each token"));
}

TEST_F(InspectTest, ChatTemplatesHaveNames) {
  namespace fs = std::filesystem;
  const std::string folder = ::testing::TempDir() + "/inspect_chat_templates";
  fs::remove_all(folder);
  fs::copy(data_ + "/stories260k", folder);
  fs::permissions(folder, fs::perms::owner_all, fs::perm_options::add);
  fs::remove(folder + "/tokenizer_config.json");
  ASSERT_TRUE(WriteFileAtomically(folder + "/tokenizer_config.json",
                                  R"({"chat_template": [{"name": "default", "template": "x"},
                                      {"name": "tool_use", "template": "y"}]})")
                  .ok());
  EXPECT_THAT(Inspect({folder}).out, HasSubstr("chat template     default, tool_use"));
  fs::remove_all(folder);
}

TEST_F(InspectTest, AModelThatIsNotOfferedIsDescribedAllTheSame) {
  namespace fs = std::filesystem;
  const std::string folder = ::testing::TempDir() + "/inspect_other_family";
  fs::remove_all(folder);
  fs::create_directories(folder);
  fs::copy(data_ + "/golden/models/gemma2/model.safetensors", folder);
  ASSERT_TRUE(WriteFileAtomically(folder + "/config.json", R"({"model_type": "gpt2"})").ok());
  const Result result = Inspect({folder, "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json.at("family"), "gpt2");
  EXPECT_EQ(json.at("offered"), false);
  EXPECT_THAT(json.at("unsupported_reason").get<std::string>(), HasSubstr("gpt2"));
  EXPECT_GT(json.at("parameters").get<int64_t>(), 10'000);
  EXPECT_FALSE(json.contains("memory"));
  EXPECT_THAT(Inspect({folder}).out, HasSubstr("no: "));
}

TEST(InspectUsageTest, WrongCallsSayWhy) {
  EXPECT_EQ(Inspect({}).exit_code, 2);
  EXPECT_EQ(Inspect({"x", "--dtype", "int8"}).exit_code, 2);
  EXPECT_EQ(Inspect({"x", "--tokens", "0"}).exit_code, 2);
  const Result absent = Inspect({::testing::TempDir() + "/no_such_model"});
  EXPECT_EQ(absent.exit_code, 1);
  EXPECT_THAT(absent.errors, HasSubstr("no such model folder"));
  EXPECT_EQ(Inspect({"--help"}).exit_code, 0);
}

}  // namespace
}  // namespace rollcall::inspect
