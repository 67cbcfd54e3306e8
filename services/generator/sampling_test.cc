// Penalties, bans, alternatives and prompt log-probs through real gRPC, with a tiny random model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "common/checkpoint/scratch_folder.h"
#include "services/generator/testing/generator_server.h"
#include "services/generator/testing/tiny_model.h"

namespace rollcall::generator {
namespace {

using testing::Outcome;

constexpr uint32_t kPromptTokens = 60;
constexpr uint32_t kMaxTokens = 40;

class SamplingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(testing::WriteTinyFolder(scratch_ / "model", decoder_).ok());
    // Prompts take several steps.
    server_ = std::make_unique<testing::GeneratorServer>(
        scratch_ / "model", std::vector<std::string>{"generator.max_step_tokens=23"});
  }
  v1::GenerateRequest Request(uint32_t samples = 3) const {
    v1::GenerateRequest request;
    request.mutable_key()->set_purpose(v1::RANDOM_PURPOSE_ROLLOUT);
    for (uint32_t i = 0; i < kPromptTokens; ++i) request.add_prompt_token_ids(i * i % 77);
    request.set_num_samples(samples);
    request.mutable_sampling()->set_max_tokens(kMaxTokens);
    request.mutable_stop()->set_ignore_eos(true);
    return request;
  }
  // The learner's log-probs of everything after `prompt_tokens`, for each sample.
  std::vector<std::vector<float>> Learner(const v1::GenerateRequest& request,
                                          const Outcome& outcome, size_t prompt_tokens) {
    std::vector<testing::ScoredSequence> sequences;
    for (const auto& [index, sample] : outcome.samples) {
      testing::ScoredSequence sequence{
          .tokens = {request.prompt_token_ids().begin(), request.prompt_token_ids().end()},
          .prompt_tokens = prompt_tokens};
      sequence.tokens.insert(sequence.tokens.end(), sample.tokens.begin(), sample.tokens.end());
      sequences.push_back(std::move(sequence));
    }
    return testing::LearnerLogProbs(decoder_, sequences, 1.0);
  }

  model::Decoder decoder_ = testing::TinyDecoder(at::kFloat, 1);
  checkpoint::ScratchFolder scratch_;
  std::unique_ptr<testing::GeneratorServer> server_;
};

TEST_F(SamplingTest, LogProbsOfPenalisedSamplesAreStillTheLearners) {
  v1::GenerateRequest request = Request();
  request.mutable_sampling()->set_repetition_penalty(1.3f);
  request.mutable_sampling()->set_frequency_penalty(0.5f);
  request.mutable_sampling()->set_top_p(0.95f);
  const Outcome outcome = server_->Generate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  const auto expected = Learner(request, outcome, kPromptTokens);
  for (const auto& [index, sample] : outcome.samples) {
    EXPECT_TRUE(sample.kept_log_mass.empty());
    ASSERT_EQ(sample.sampling_logprobs.size(), kMaxTokens);
    EXPECT_EQ(
        std::memcmp(sample.logprobs.data(), expected[index].data(), sizeof(float) * kMaxTokens), 0);
    EXPECT_NE(sample.logprobs, sample.sampling_logprobs);
  }
}

TEST_F(SamplingTest, NothingRepeatsAndBadWordsStayOut) {
  v1::GenerateRequest request = Request();
  request.mutable_prompt_token_ids()->Truncate(10);
  request.mutable_sampling()->set_no_repeat_ngram_size(1);
  for (uint32_t token = 50; token < 60; ++token) {
    request.mutable_sampling()->add_bad_words()->add_token_ids(token);
  }
  v1::LogitBias& bias = *request.mutable_sampling()->add_logit_bias();
  bias.set_token_id(76);
  bias.set_bias(100);
  const Outcome outcome = server_->Generate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  for (const auto& [index, sample] : outcome.samples) {
    std::set<uint32_t> seen(request.prompt_token_ids().begin(), request.prompt_token_ids().end());
    EXPECT_EQ(sample.tokens[0], 76u);
    for (const uint32_t token : sample.tokens) {
      EXPECT_TRUE(seen.insert(token).second) << token;
      EXPECT_TRUE(token < 50 || token >= 60) << token;
    }
  }
}

TEST_F(SamplingTest, PenalisedSamplesAreContinuedFromTheirPrefixes) {
  v1::GenerateRequest request = Request(1);
  request.mutable_sampling()->set_presence_penalty(2);
  request.mutable_sampling()->set_no_repeat_ngram_size(2);
  const std::vector<uint32_t> whole = server_->Generate(request).samples.at(0).tokens;
  ASSERT_EQ(whole.size(), kMaxTokens);
  request.add_samples()->mutable_prefix_token_ids()->Assign(whole.begin(), whole.begin() + 15);
  EXPECT_EQ(server_->Generate(request).samples.at(0).tokens,
            std::vector<uint32_t>(whole.begin() + 15, whole.end()));
}

TEST_F(SamplingTest, AlternativesAreTheMostLikelyTokens) {
  v1::GenerateRequest request = Request(1);
  request.mutable_sampling()->set_top_logprobs(64);
  const Outcome outcome = server_->Generate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  const Outcome::Sample& sample = outcome.samples.at(0);
  ASSERT_EQ(sample.alternatives.size(), kMaxTokens);
  int found = 0;
  for (size_t i = 0; i < kMaxTokens; ++i) {
    const v1::TokenAlternatives& alternatives = sample.alternatives[i];
    ASSERT_EQ(alternatives.token_ids_size(), 64);
    ASSERT_EQ(alternatives.logprobs_size(), 64);
    const auto& logprobs = alternatives.logprobs();
    EXPECT_TRUE(std::is_sorted(logprobs.begin(), logprobs.end(), std::greater<>()));
    double mass = 0;
    for (int j = 0; j < 64; ++j) {
      mass += std::exp(static_cast<double>(logprobs[j]));
      if (alternatives.token_ids(j) != sample.tokens[i]) continue;
      EXPECT_EQ(logprobs[j], sample.logprobs[i]);
      ++found;
    }
    EXPECT_LE(mass, 1.0 + 1e-5);
    EXPECT_GT(mass, 0.5);
  }
  EXPECT_GT(found, 20);
  // The first alternative is what greedy decoding takes.
  request.mutable_sampling()->set_temperature(0);
  const Outcome greedy = server_->Generate(request);
  EXPECT_EQ(greedy.samples.at(0).tokens[0], greedy.samples.at(0).alternatives[0].token_ids(0));
}

TEST_F(SamplingTest, PromptLogProbsAreTheLearners) {
  v1::GenerateRequest request = Request(2);
  // The same prompt is in the cache already.
  ASSERT_TRUE(server_->Generate(request).status.ok());
  request.mutable_sampling()->set_prompt_logprobs(true);
  const Outcome outcome = server_->Generate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  const auto expected = Learner(request, outcome, 1);
  ASSERT_EQ(outcome.prompt_logprobs.size(), kPromptTokens - 1);
  EXPECT_EQ(std::memcmp(outcome.prompt_logprobs.data(), expected[0].data(),
                        sizeof(float) * (kPromptTokens - 1)),
            0);
  EXPECT_EQ(std::memcmp(outcome.samples.at(0).logprobs.data(),
                        expected[0].data() + kPromptTokens - 1, sizeof(float) * kMaxTokens),
            0);

  request.mutable_prompt_token_ids()->Truncate(1);
  const Outcome shortest = server_->Generate(request);
  ASSERT_TRUE(shortest.status.ok()) << shortest.status;
  EXPECT_TRUE(shortest.prompt_logprobs.empty());
}

}  // namespace
}  // namespace rollcall::generator
