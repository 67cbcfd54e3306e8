#include "common/model/flops.h"

#include <gtest/gtest.h>

namespace rollcall::model {
namespace {

ModelConfig Config() {
  ModelConfig config;
  config.vocab_size = 10;
  config.hidden_size = 4;
  config.intermediate_size = 6;
  config.num_layers = 2;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 3;
  return config;
}

// Worked by hand: a layer has 4 * (6 + 2 * 3) + 6 * 4 = 72 weights of attention and 3 * 4 * 6 = 72
// of the MLP; a key seen costs 4 * 6 = 24; the head of a token 2 * 4 * 10 = 80.
TEST(FlopsTest, IsTheSumOverLayersTokensAndKeys) {
  EXPECT_EQ(ForwardFlops(Config(), 1, 0), 2 * (2 * 144 + 24));
  EXPECT_EQ(ForwardFlops(Config(), 5, 0), 2 * (2 * 5 * 144 + 24 * (1 + 2 + 3 + 4 + 5)));
  EXPECT_EQ(ForwardFlops(Config(), 5, 3) - ForwardFlops(Config(), 5, 0), 3 * 80);
}

TEST(FlopsTest, ASlidingLayerSeesItsWindow) {
  ModelConfig config = Config();
  config.sliding_window = 2;
  config.layers.resize(2);
  config.layers[1].sliding = true;
  EXPECT_EQ(ForwardFlops(config, 5, 0),
            2 * 2 * 5 * 144 + 24 * (1 + 2 + 3 + 4 + 5) + 24 * (1 + 2 + 2 + 2 + 2));
  EXPECT_EQ(ForwardFlops(config, 2, 0), ForwardFlops(Config(), 2, 0));
}

// 2 of 8 experts with 3 * 4 * 5 = 60 weights each, and a router of 4 * 8.
TEST(FlopsTest, ATokenVisitsSomeExperts) {
  ModelConfig config = Config();
  config.num_experts = 8;
  config.experts_per_token = 2;
  config.expert_intermediate_size = 5;
  config.layers.resize(2);
  config.layers[0].experts = true;
  EXPECT_EQ(ForwardFlops(config, 1, 0), 2 * (72 + 2 * 60 + 32) + 24 + 2 * 144 + 24);
}

TEST(FlopsTest, AScoreHeadHasOneOutput) {
  ModelConfig config = Config();
  config.head = Head::kSequenceScore;
  EXPECT_EQ(ForwardFlops(config, 5, 1) - ForwardFlops(config, 5, 0), 2 * 4);
}

// The usual estimate of 2 FLOPs a parameter and token, for a model whose attention is short.
TEST(FlopsTest, IsAboutTwoAParameterAndToken) {
  ModelConfig config;
  config.vocab_size = 128256;
  config.hidden_size = 4096;
  config.intermediate_size = 14336;
  config.num_layers = 32;
  config.num_heads = 32;
  config.num_kv_heads = 8;
  config.head_dim = 128;
  const double weights =
      7.504e9;  // Llama 3 8B without its embedding: 6.98e9 in layers, 0.525e9 head
  EXPECT_NEAR(ForwardFlops(config, 128, 128) / (2 * weights * 128), 1.0, 0.01);
}

}  // namespace
}  // namespace rollcall::model
