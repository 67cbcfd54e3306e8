// The proof of the proofs: what the exactness tests compare differs as soon as one kernel's result
// depends on the batch, by one bit of one element of a call.

#include <gtest/gtest.h>

#include <cstring>

#include "common/model/batch_dependent_kernel.h"
#include "common/model/scoring.h"
#include "common/model/test_models.h"
#include "common/model/test_runs.h"

namespace rollcall::model {
namespace {

using testing::Batch;
using testing::BatchDependentKernel;
using testing::PackedResult;
using testing::RandomDecoder;
using testing::RunPacked;
using testing::RunPaged;
using testing::SameBits;
using testing::SmallConfig;

// The packed forward with gradients against the paged one in random chunks, logits and log-probs.
bool IsExact(Decoder& decoder, const Batch& batch) {
  const int64_t vocab = decoder.config().vocab_size;
  const PackedResult packed = RunPacked(decoder, batch);
  PhiloxStream random(5, 5);
  const at::Tensor logits = RunPaged(
      decoder, batch, 32, [&](int64_t) { return static_cast<int64_t>(random.Below(24)); }, random);
  if (!SameBits(logits, packed.outputs)) return false;
  const at::Tensor targets = batch.Tokens().roll(-1);
  for (int64_t i = 0; i < targets.size(0); ++i) {
    const float alone = TokenLogProb(logits.const_data_ptr<float>() + i * vocab, vocab, 0.7,
                                     targets.const_data_ptr<int64_t>()[i]);
    if (std::memcmp(&alone, packed.logprob.const_data_ptr<float>() + i, sizeof(alone)) != 0) {
      return false;
    }
  }
  return true;
}

ModelConfig Config(bool experts) {
  ModelConfig config = SmallConfig();
  if (!experts) return config;
  config.family = "qwen3_moe";
  config.qk_norm = QkNorm::kPerHead;
  config.num_experts = 6;
  config.experts_per_token = 2;
  config.expert_intermediate_size = 40;
  config.normalize_expert_weights = true;
  config.layers.assign(static_cast<size_t>(config.num_layers), {.experts = true});
  return config;
}

class BatchDependenceTest
    : public ::testing::TestWithParam<std::tuple<std::string, at::ScalarType>> {};

TEST_P(BatchDependenceTest, IsFound) {
  const auto& [kernel, dtype] = GetParam();
  const bool experts = kernel == "route" || kernel == "combine";
  Decoder decoder = RandomDecoder(Config(experts), dtype, 11);
  const Batch batch({1, 7, 16, 33, 50, 129}, decoder.config().vocab_size, 3);
  ASSERT_TRUE(IsExact(decoder, batch));
  {
    const BatchDependentKernel broken(kernel);
    EXPECT_FALSE(IsExact(decoder, batch));
  }
  EXPECT_TRUE(IsExact(decoder, batch));
}

INSTANTIATE_TEST_SUITE_P(Kernels, BatchDependenceTest,
                         ::testing::Combine(::testing::ValuesIn(BatchDependentKernel::Names()),
                                            ::testing::Values(at::kFloat, at::kBFloat16)),
                         [](const auto& parameters) {
                           return std::get<0>(parameters.param) + "_" +
                                  c10::toString(std::get<1>(parameters.param));
                         });

}  // namespace
}  // namespace rollcall::model
