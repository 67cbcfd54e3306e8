// Random small models of every family: chunked prefill and decoding give the bits of the packed
// training forward, and the kernels agree with plain LibTorch.

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "common/model/families/family.h"
#include "common/model/random_config.h"
#include "common/model/scoring.h"
#include "common/model/test_models.h"
#include "common/model/test_runs.h"

namespace rollcall::model {
namespace {

using testing::Batch;
using testing::MaxDifference;
using testing::RandomConfigJson;
using testing::RandomDecoder;
using testing::RelativeDifference;
using testing::RunPacked;
using testing::RunPaged;
using testing::SameBits;

constexpr int64_t kConfigurations = 200;
const std::vector<int64_t> kLengths = {1, 23, 40};

// Configuration i is one of family i mod the number of families.
ModelConfig RandomConfig(int64_t i, uint64_t seed, std::string* text) {
  const auto families = Families();
  PhiloxStream random(seed, static_cast<uint64_t>(i));
  *text = RandomConfigJson(families[i % families.size()]->model_type, random).dump();
  absl::StatusOr<ModelConfig> config = ModelConfig::FromJson(*text, "config.json");
  EXPECT_TRUE(config.ok()) << config.status() << "\n" << *text;
  if (!config.ok()) return testing::SmallConfig();
  config->SetContext(64);
  return *std::move(config);
}

TEST(RandomModelsTest, ChunkedPrefillAndDecodeEqualThePackedForward) {
  PhiloxStream random(5, 6);
  for (int64_t i = 0; i < kConfigurations; ++i) {
    std::string text;
    const ModelConfig config = RandomConfig(i, 90, &text);
    const Batch batch(kLengths, config.vocab_size, static_cast<uint64_t>(i));
    const int64_t block_size = 16 * (1 + i % 3), largest = 1 + i % 30;
    for (at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      Decoder decoder = RandomDecoder(config, dtype, static_cast<uint64_t>(i));
      const at::Tensor packed = RunPacked(decoder, batch).outputs;
      const at::Tensor paged = RunPaged(
          decoder, batch, block_size,
          // A prompt in chunks, then token by token.
          [&](int64_t remaining) {
            return remaining > 10 ? static_cast<int64_t>(random.Below(largest + 1)) : 1;
          },
          random);
      ASSERT_TRUE(SameBits(paged, packed)) << c10::toString(dtype) << " " << text;
      ASSERT_TRUE(packed.isfinite().all().item<bool>()) << text;
    }
  }
}

struct Outcome {
  at::Tensor outputs;
  std::vector<at::Tensor> gradients;
};

// Outputs, and gradients of a random functional of them.
Outcome RunOnce(Decoder& decoder, const Batch& batch) {
  decoder.SetRequiresGrad(true);
  PackedAttention attention = *PackedAttention::Create(batch.cu_seqlens);
  const at::Tensor tokens = batch.Tokens();
  const at::Tensor hidden = decoder.Forward(tokens, attention.Positions(), attention);
  PhiloxStream random(3, 3);
  const at::Tensor weights = testing::RandomNormal({tokens.size(0)}, random);
  at::Tensor loss;
  if (decoder.config().head == Head::kLanguageModel) {
    const TokenScores scores =
        *ScoreTokens(decoder, hidden, tokens.roll(-1), 0.8, EntropyMode::kDifferentiable);
    loss = (scores.logprob * weights).sum() + (scores.entropy * weights).sum();
  } else {
    loss = (decoder.Values(hidden) * weights).sum();
  }
  loss.backward();
  Outcome outcome{testing::OutputsOf(decoder, hidden).detach(), {}};
  for (const auto& parameter : decoder.parameters()) {
    EXPECT_TRUE(parameter.tensor.grad().defined()) << parameter.name;
    outcome.gradients.push_back(parameter.tensor.grad());
  }
  return outcome;
}

TEST(RandomModelsTest, KernelsAgreeWithLibTorch) {
  for (int64_t i = 0; i < 44; ++i) {
    std::string text;
    const ModelConfig config = RandomConfig(i, 91, &text);
    SCOPED_TRACE(text);
    const Batch batch(kLengths, config.vocab_size, static_cast<uint64_t>(i));
    Decoder kernels = RandomDecoder(config, at::kFloat, 7);
    Decoder reference = RandomDecoder(config, at::kFloat, 7, Backend::kAten);
    const Outcome a = RunOnce(kernels, batch), b = RunOnce(reference, batch);
    EXPECT_LT(RelativeDifference(a.outputs, b.outputs), 2e-5);
    double largest = 0;
    for (const at::Tensor& gradient : b.gradients) {
      largest = std::max(largest, gradient.abs().max().item<double>());
    }
    for (size_t j = 0; j < a.gradients.size(); ++j) {
      // Some gradients vanish, as a query's does where it sees only its own key.
      const double size = b.gradients[j].abs().max().item<double>();
      EXPECT_LT(MaxDifference(a.gradients[j], b.gradients[j]), 1e-4 * size + 1e-6 * largest)
          << kernels.parameters()[j].name;
    }
    PhiloxStream random(1, 1);
    const at::Tensor paged = RunPaged(
        reference, batch, 16, [](int64_t) { return 9; }, random);
    EXPECT_LT(RelativeDifference(paged, b.outputs), 2e-5);
  }
}

TEST(RandomModelsTest, GradientsDoNotDependOnThreads) {
  for (int64_t i = 0; i < 22; ++i) {
    std::string text;
    const ModelConfig config = RandomConfig(i, 92, &text);
    const Batch batch(kLengths, config.vocab_size, static_cast<uint64_t>(i));
    std::vector<Outcome> outcomes;
    for (int threads : {1, 2}) {
      const testing::ThreadCount scope(threads);
      Decoder decoder = RandomDecoder(config, at::kBFloat16, 8);
      outcomes.push_back(RunOnce(decoder, batch));
    }
    for (size_t j = 0; j < outcomes[0].gradients.size(); ++j) {
      ASSERT_TRUE(SameBits(outcomes[0].gradients[j], outcomes[1].gradients[j])) << text;
    }
  }
}

TEST(RandomModelsTest, ActivationCheckpointingChangesNoBit) {
  for (int64_t i = 0; i < 22; ++i) {
    std::string text;
    const ModelConfig config = RandomConfig(i, 93, &text);
    const Batch batch(kLengths, config.vocab_size, static_cast<uint64_t>(i));
    for (at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      std::vector<Outcome> outcomes;
      for (const bool checkpoint : {false, true}) {
        Decoder decoder = RandomDecoder(config, dtype, 8);
        decoder.SetActivationCheckpointing(checkpoint);
        outcomes.push_back(RunOnce(decoder, batch));
      }
      ASSERT_TRUE(SameBits(outcomes[0].outputs, outcomes[1].outputs)) << text;
      for (size_t j = 0; j < outcomes[0].gradients.size(); ++j) {
        ASSERT_TRUE(SameBits(outcomes[0].gradients[j], outcomes[1].gradients[j])) << text;
      }
    }
  }
}

}  // namespace
}  // namespace rollcall::model
