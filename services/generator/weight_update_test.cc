// New weights while requests run, in each of the three ways of generator.on_weight_update, through
// real gRPC: nothing is lost, every token says which version drew it, and its log-prob is what that
// version gives.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <numeric>
#include <thread>

#include "common/checkpoint/scratch_folder.h"
#include "common/model/adapter_folder.h"
#include "common/model/attention_context.h"
#include "common/model/identity.h"
#include "common/model/scoring.h"
#include "common/model/test_models.h"
#include "common/rpc/status_conversion.h"
#include "services/generator/testing/generator_server.h"
#include "services/generator/testing/requests.h"
#include "services/generator/testing/tiny_model.h"

namespace rollcall::generator {
namespace {

using testing::GeneratorServer;
using testing::Outcome;
using testing::Published;
using testing::Request;
using testing::ScoredSequence;

constexpr uint32_t kPrompt = 30;
constexpr uint32_t kMaxTokens = 480;

at::Tensor Hidden(model::Decoder& decoder, model::KvCache& cache,
                  const std::vector<uint32_t>& tokens, size_t begin, size_t end) {
  const int64_t count = static_cast<int64_t>(end - begin);
  model::PagedSequence sequence{
      .block_table = std::vector<int32_t>(static_cast<size_t>(cache.num_blocks())),
      .start = static_cast<int64_t>(begin),
      .count = count};
  std::iota(sequence.block_table.begin(), sequence.block_table.end(), 0);
  model::PagedAttention attention = *model::PagedAttention::Create(&cache, {sequence});
  at::Tensor ids = at::empty({count}, at::kLong);
  std::copy(tokens.begin() + static_cast<std::ptrdiff_t>(begin),
            tokens.begin() + static_cast<std::ptrdiff_t>(end), ids.mutable_data_ptr<int64_t>());
  return decoder.Forward(ids, attention.Positions(), attention);
}

// Log-probs under `after` of the tokens from `drawn` on, over keys and values that `before` computed
// of all tokens but the last one before `drawn`.
std::vector<float> MixedLogProbs(model::Decoder& before, model::Decoder& after,
                                 const std::vector<uint32_t>& tokens, size_t drawn) {
  const at::NoGradGuard no_grad;
  model::KvCache cache = *model::KvCache::Create(
      before.config(), {.num_blocks = 32, .block_size = 16}, before.dtype(), before.device());
  Hidden(before, cache, tokens, 0, drawn - 1);
  const at::Tensor logits =
      after.Logits(Hidden(after, cache, tokens, drawn - 1, tokens.size() - 1));
  const int64_t vocab = after.config().vocab_size;
  std::vector<float> logprobs;
  for (size_t t = drawn; t < tokens.size(); ++t) {
    const auto row = static_cast<int64_t>(t - drawn);
    logprobs.push_back(
        model::TokenLogProb(logits.const_data_ptr<float>() + row * vocab, vocab, 1.0, tokens[t]));
  }
  return logprobs;
}

std::vector<uint32_t> Trajectory(const v1::GenerateRequest& request,
                                 const Outcome::Sample& sample) {
  std::vector<uint32_t> tokens(request.prompt_token_ids().begin(),
                               request.prompt_token_ids().end());
  tokens.insert(tokens.end(), sample.tokens.begin(), sample.tokens.end());
  return tokens;
}

class WeightUpdateTest : public ::testing::Test {
 protected:
  void Serve(const std::string& on_weight_update, std::vector<std::string> sets = {}) {
    ASSERT_TRUE(testing::WriteTinyFolder(folder(), before_).ok());
    sets.push_back("generator.on_weight_update=" + on_weight_update);
    server_ = std::make_unique<GeneratorServer>(folder(), sets);
    ASSERT_TRUE(Push(before_, 0).ok());
  }
  std::string folder() const { return scratch_ / "model"; }
  absl::Status Push(const model::Decoder& decoder, uint64_t step) {
    const Published published(decoder, folder(), 1, step);
    return server_->PushWeights(published.version, published.manifest, published.tensors, 1 << 20,
                                published.adapter);
  }

  // Generates, and pushes `after_` once the first tokens are there.
  Outcome GenerateAcrossUpdate(const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    GeneratorServer::SetDeadline(&context);
    const auto reader = server_->generator().Generate(&context, request);
    Outcome outcome;
    v1::GenerateResponse message;
    EXPECT_TRUE(reader->Read(&message));
    testing::Collect(message, &outcome);
    std::thread update([this] { EXPECT_TRUE(Push(after_, 1).ok()); });
    while (reader->Read(&message)) testing::Collect(message, &outcome);
    outcome.status = rpc::FromGrpc(reader->Finish());
    update.join();
    return outcome;
  }

  // The tokens [begin, end) of each sample are the learner's under `decoder`, bit for bit.
  void ExpectLearners(model::Decoder& decoder, const v1::GenerateRequest& request,
                      const Outcome& outcome, const std::map<uint32_t, size_t>& begin,
                      const std::map<uint32_t, size_t>& end) {
    std::vector<ScoredSequence> sequences;
    for (const auto& [index, sample] : outcome.samples) {
      ScoredSequence sequence{.tokens = Trajectory(request, sample),
                              .prompt_tokens = kPrompt + begin.at(index)};
      sequence.tokens.resize(kPrompt + end.at(index));
      sequences.push_back(std::move(sequence));
    }
    const auto expected = testing::LearnerLogProbs(decoder, sequences, 1.0);
    size_t i = 0;
    for (const auto& [index, sample] : outcome.samples) {
      ASSERT_EQ(expected[i].size(), end.at(index) - begin.at(index));
      EXPECT_EQ(std::memcmp(sample.logprobs.data() + begin.at(index), expected[i].data(),
                            4 * expected[i].size()),
                0)
          << "sample " << index;
      ++i;
    }
  }

  // Requests across an update with on_weight_update: recompute.
  void ExpectRecomputed();

  model::Decoder before_ = testing::TinyDecoder(at::kFloat, 5);
  model::Decoder after_ = testing::TinyDecoder(at::kFloat, 6);
  checkpoint::ScratchFolder scratch_;
  std::unique_ptr<GeneratorServer> server_;
};

// Two spans, of step 0 and of step 1; where the second begins.
std::map<uint32_t, size_t> SwitchOf(const Outcome& outcome, bool mixed) {
  std::map<uint32_t, size_t> switch_of;
  for (const auto& [index, sample] : outcome.samples) {
    EXPECT_EQ(sample.tokens.size(), kMaxTokens);
    const v1::SampleEnd& end = sample.ends.at(0);
    if (end.version_spans_size() != 2) {
      ADD_FAILURE() << "the update came too late to be tested: " << end.DebugString();
      continue;
    }
    const v1::VersionSpan& first = end.version_spans(0);
    const v1::VersionSpan& second = end.version_spans(1);
    EXPECT_EQ(first.begin(), 0u);
    EXPECT_EQ(first.version().step(), 0u);
    EXPECT_FALSE(first.mixed_kv());
    EXPECT_EQ(second.begin(), first.end());
    EXPECT_EQ(second.version().step(), 1u);
    EXPECT_EQ(second.mixed_kv(), mixed);
    EXPECT_EQ(second.end(), kMaxTokens);
    switch_of[index] = second.begin();
    for (size_t i = 0; i < sample.tokens.size(); ++i) {
      EXPECT_EQ(sample.policy_steps[i], i < second.begin() ? 0u : 1u);
      EXPECT_EQ(sample.mixed_kv[i], i >= second.begin() && mixed);
    }
  }
  return switch_of;
}

std::map<uint32_t, size_t> All(const Outcome& outcome, size_t value) {
  std::map<uint32_t, size_t> all;
  for (const auto& [index, sample] : outcome.samples) all[index] = value;
  return all;
}

void WeightUpdateTest::ExpectRecomputed() {
  const v1::GenerateRequest request = Request(1, kPrompt, 16, kMaxTokens);
  const Outcome outcome = GenerateAcrossUpdate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  const auto switched = SwitchOf(outcome, /*mixed=*/false);
  ASSERT_EQ(switched.size(), 16u);
  ExpectLearners(before_, request, outcome, All(outcome, 0), switched);
  ExpectLearners(after_, request, outcome, switched, All(outcome, kMaxTokens));
}

TEST_F(WeightUpdateTest, RecomputedSamplesGoOnExactly) {
  Serve("recompute");
  ExpectRecomputed();
}

// Adapters of one base, swapped like weights and applied unmerged.
class AdapterUpdateTest : public WeightUpdateTest {
 protected:
  AdapterUpdateTest() {
    after_ = testing::TinyDecoder(at::kFloat, 5);
    Adapt(before_, 3, 1);
    Adapt(after_, 3, 2);
  }
  static void Adapt(model::Decoder& decoder, int64_t r, uint64_t seed) {
    ASSERT_TRUE(decoder.AddAdapter({.r = r, .alpha = 6}).ok());
    const at::NoGradGuard no_grad;
    PhiloxStream random(seed, 3);
    for (const auto& [name, tensor] : decoder.adapter_parameters()) {
      tensor.copy_(model::testing::RandomNormal(tensor.sizes(), random).mul_(0.2));
    }
  }
  const std::vector<std::string> waits_ = {"generator.wait_for_weights=true", "model.lora.r=3"};
};

TEST_F(AdapterUpdateTest, RecomputedSamplesGoOnExactly) {
  Serve("recompute", waits_);
  ExpectRecomputed();
}

TEST_F(AdapterUpdateTest, ServesWhatIsPushedOverTheBaseItHolds) {
  Serve("recompute");
  const v1::GenerateRequest request = Request(1, kPrompt, 4, 40);
  const auto expect = [&](model::Decoder& decoder) {
    const Outcome outcome = server_->Generate(request);
    ASSERT_TRUE(outcome.status.ok()) << outcome.status;
    ExpectLearners(decoder, request, outcome, All(outcome, 0), All(outcome, 40));
  };
  expect(before_);
  // Another rank, then whole weights, which are the base from then on.
  model::Decoder wider = testing::TinyDecoder(at::kFloat, 5);
  Adapt(wider, 8, 4);
  ASSERT_TRUE(Push(wider, 1).ok());
  expect(wider);
  model::Decoder whole = testing::TinyDecoder(at::kFloat, 9);
  ASSERT_TRUE(Push(whole, 2).ok());
  expect(whole);
  EXPECT_TRUE(absl::IsFailedPrecondition(Push(after_, 3)));
  Adapt(whole, 2, 5);
  ASSERT_TRUE(Push(whole, 3).ok());
  expect(whole);
}

TEST_F(AdapterUpdateTest, AnAdapterOfAnotherBaseIsRefused) {
  Serve("recompute", waits_);
  model::Decoder other = testing::TinyDecoder(at::kFloat, 6);
  Adapt(other, 3, 1);
  const absl::Status status = Push(other, 1);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(status.message(), ::testing::HasSubstr("base_manifest_hash"));
  EXPECT_TRUE(Push(after_, 1).ok());
}

TEST_F(AdapterUpdateTest, LoadsAnAdapterFromItsFolder) {
  ASSERT_TRUE(testing::WriteTinyFolder(folder(), before_).ok());
  const std::string adapter = scratch_ / "adapter";
  ASSERT_TRUE(model::WriteAdapterFolder(adapter, before_, "", "").ok());
  server_ = std::make_unique<GeneratorServer>(
      folder(), std::vector<std::string>{"model.lora.path=" + adapter});
  EXPECT_EQ(server_->State().version().manifest_hash(), *model::PolicyManifestHash(before_));
  const v1::GenerateRequest request = Request(1, kPrompt, 2, 40);
  const Outcome outcome = server_->Generate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  ExpectLearners(before_, request, outcome, All(outcome, 0), All(outcome, 40));
}

TEST_F(AdapterUpdateTest, OneThatWaitsForWholeWeightsHoldsNoBase) {
  ASSERT_TRUE(testing::WriteTinyFolder(folder(), before_).ok());
  server_ = std::make_unique<GeneratorServer>(
      folder(), std::vector<std::string>{"generator.wait_for_weights=true"});
  const absl::Status status = Push(before_, 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(status.message(), ::testing::HasSubstr("holds no weights"));
}

TEST_F(WeightUpdateTest, KeptSamplesGoOnOverOldKeysAndSaySo) {
  Serve("keep");
  const v1::GenerateRequest request = Request(1, kPrompt, 16, kMaxTokens);
  const Outcome outcome = GenerateAcrossUpdate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  const auto switched = SwitchOf(outcome, /*mixed=*/true);
  ASSERT_EQ(switched.size(), 16u);
  ExpectLearners(before_, request, outcome, All(outcome, 0), switched);
  for (const auto& [index, sample] : outcome.samples) {
    const size_t begin = switched.at(index);
    const std::vector<float> expected =
        MixedLogProbs(before_, after_, Trajectory(request, sample), kPrompt + begin);
    EXPECT_EQ(std::memcmp(sample.logprobs.data() + begin, expected.data(), 4 * expected.size()), 0)
        << "sample " << index;
  }
  // Nobody finds those keys: neither the prompt's, nor those of a whole turn.
  v1::GenerateRequest turn = Request(2, kPrompt, 2, 20);
  turn.mutable_prompt_token_ids()->CopyFrom(request.prompt_token_ids());
  const Outcome next = server_->Generate(turn);
  ASSERT_TRUE(next.status.ok()) << next.status;
  ExpectLearners(after_, turn, next, All(next, 0), All(next, 20));
  const std::vector<uint32_t> first = Trajectory(request, outcome.samples.at(0));
  turn.mutable_prompt_token_ids()->Assign(first.begin(), first.begin() + kPrompt + 400);
  turn.set_num_samples(1);
  const Outcome again = server_->Generate(turn);
  ASSERT_TRUE(again.status.ok()) << again.status;
  EXPECT_FALSE(again.samples.at(0).ends.at(0).version_spans(0).mixed_kv());
  const auto expected = testing::LearnerLogProbs(
      after_, {{.tokens = Trajectory(turn, again.samples.at(0)), .prompt_tokens = kPrompt + 400}},
      1.0);
  EXPECT_EQ(std::memcmp(again.samples.at(0).logprobs.data(), expected[0].data(), 4 * 20), 0);
}

TEST_F(WeightUpdateTest, DrainedRequestsEndUnderTheOldWeights) {
  Serve("drain");
  const v1::GenerateRequest request = Request(1, kPrompt, 16, kMaxTokens);
  // Requests that come meanwhile are served under the one version or the other, whole.
  std::vector<Outcome> others;
  std::thread client([this, &others] {
    while (others.size() < 3 || others.back().header.version().step() == 0) {
      others.push_back(server_->Generate(Request(2 + others.size(), kPrompt, 2, 10)));
      if (!others.back().status.ok()) return;
    }
  });
  const Outcome outcome = GenerateAcrossUpdate(request);
  client.join();
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  for (const auto& [index, sample] : outcome.samples) {
    ASSERT_EQ(sample.ends.at(0).version_spans_size(), 1);
    EXPECT_EQ(sample.ends.at(0).version_spans(0).version().step(), 0u);
  }
  ExpectLearners(before_, request, outcome, All(outcome, 0), All(outcome, kMaxTokens));
  for (size_t i = 0; i < others.size(); ++i) {
    ASSERT_TRUE(others[i].status.ok()) << others[i].status;
    ExpectLearners(others[i].header.version().step() == 0 ? before_ : after_,
                   Request(2 + i, kPrompt, 2, 10), others[i], All(others[i], 0),
                   All(others[i], 10));
  }
  EXPECT_EQ(others.back().header.version().step(), 1u);
  EXPECT_EQ(server_->State().version().step(), 1u);
}

}  // namespace
}  // namespace rollcall::generator
