// The log-probs that the generator returns are, bit for bit, those of the learner's packed forward
// pass with gradients: over random mixes of prompts, group sizes, temperatures, chunked prefills,
// shared prompts and preemptions.
#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "common/base/philox.h"
#include "common/checkpoint/scratch_folder.h"
#include "services/generator/testing/generator_server.h"
#include "services/generator/testing/tiny_model.h"

namespace rollcall::generator {
namespace {

struct ExactnessCase {
  std::string name;
  at::ScalarType dtype;
  std::string dtype_name;
  std::vector<std::string> sets;
  bool preempts;
  bool finds_prefixes = true;
};

class ExactnessTest : public ::testing::TestWithParam<ExactnessCase> {};

v1::GenerateRequest RandomRequest(uint64_t group_id) {
  PhiloxStream random(group_id, 3);
  v1::GenerateRequest request;
  request.mutable_key()->set_run_seed(11);
  request.mutable_key()->set_purpose(v1::RANDOM_PURPOSE_ROLLOUT);
  request.mutable_key()->set_group_id(group_id);
  const uint64_t prompt = random.Below(3) == 0 ? 1 + random.Below(6) : 1 + random.Below(200);
  // Prompts of three families, which part somewhere: what they share comes from the prefix cache.
  PhiloxStream family(random.Below(3), 9);
  const uint64_t common = random.Below(prompt + 1);
  for (uint64_t i = 0; i < prompt; ++i) {
    request.add_prompt_token_ids(
        static_cast<uint32_t>(i < common ? family.Below(77) : random.Below(77)));
  }
  request.set_num_samples(1 + static_cast<uint32_t>(random.Below(6)));
  request.mutable_sampling()->set_max_tokens(1 + static_cast<uint32_t>(random.Below(90)));
  request.mutable_sampling()->set_temperature(group_id % 2 == 0 ? 1.0f : 0.7f);
  if (random.Below(3) == 0) request.mutable_sampling()->set_top_p(0.9f);
  return request;
}

TEST_P(ExactnessTest, ReturnedLogProbsAreTheLearners) {
  const ExactnessCase& test_case = GetParam();
  checkpoint::ScratchFolder scratch;
  model::Decoder decoder = testing::TinyDecoder(test_case.dtype, 21);
  ASSERT_TRUE(testing::WriteTinyFolder(scratch / "model", decoder).ok());
  std::vector<std::string> sets = test_case.sets;
  sets.push_back("model.dtype=" + test_case.dtype_name);
  constexpr uint64_t kRequests = 40;
  std::vector<testing::Outcome> outcomes(kRequests);
  {
    testing::GeneratorServer server(scratch / "model", sets);
    std::vector<std::thread> clients;
    for (uint64_t first = 0; first < 8; ++first) {
      clients.emplace_back([&server, &outcomes, first] {
        for (uint64_t i = first; i < kRequests; i += 8)
          outcomes[i] = server.Generate(RandomRequest(i));
      });
    }
    for (std::thread& client : clients) client.join();
    EXPECT_EQ(
        server.metrics_text().find("rollcall_generator_preemptions_total 0\n") == std::string::npos,
        test_case.preempts);
    EXPECT_EQ(server.metrics_text().find("rollcall_generator_prefix_cache_hits_total 0\n") ==
                  std::string::npos,
              test_case.finds_prefixes);
  }
  size_t tokens = 0;
  for (const double temperature : {1.0, static_cast<double>(0.7f)}) {
    std::vector<testing::ScoredSequence> sequences;
    std::vector<const std::vector<float>*> returned;
    for (uint64_t i = temperature == 1.0 ? 0 : 1; i < kRequests; i += 2) {
      ASSERT_TRUE(outcomes[i].status.ok()) << outcomes[i].status;
      const v1::GenerateRequest request = RandomRequest(i);
      for (const auto& [index, sample] : outcomes[i].samples) {
        testing::ScoredSequence sequence;
        sequence.tokens.assign(request.prompt_token_ids().begin(),
                               request.prompt_token_ids().end());
        sequence.prompt_tokens = sequence.tokens.size();
        sequence.tokens.insert(sequence.tokens.end(), sample.tokens.begin(), sample.tokens.end());
        sequences.push_back(std::move(sequence));
        returned.push_back(&sample.logprobs);
      }
    }
    const auto expected = testing::LearnerLogProbs(decoder, sequences, temperature);
    for (size_t i = 0; i < sequences.size(); ++i) {
      ASSERT_EQ(expected[i].size(), returned[i]->size());
      tokens += expected[i].size();
      ASSERT_EQ(std::memcmp(expected[i].data(), returned[i]->data(), 4 * expected[i].size()), 0)
          << "sequence " << i << " at temperature " << temperature;
    }
  }
  EXPECT_GT(tokens, 2000u);
}

INSTANTIATE_TEST_SUITE_P(
    Mixes, ExactnessTest,
    ::testing::Values(ExactnessCase{"Float32", at::kFloat, "float32", {}, false},
                      ExactnessCase{"Float32WithoutPrefixCache",
                                    at::kFloat,
                                    "float32",
                                    {"generator.prefix_cache=false"},
                                    false,
                                    false},
                      ExactnessCase{"BFloat16", at::kBFloat16, "bfloat16", {}, false},
                      ExactnessCase{
                          "Float32SmallChunksAndCache",
                          at::kFloat,
                          "float32",
                          {"generator.max_step_tokens=37", "generator.kv_cache_bytes=1200000"},
                          true},
                      ExactnessCase{"BFloat16SmallChunksAndCacheOneThread",
                                    at::kBFloat16,
                                    "bfloat16",
                                    {"generator.max_step_tokens=37",
                                     "generator.kv_cache_bytes=600000", "generator.threads=1"},
                                    true}),
    [](const auto& parameters) { return parameters.param.name; });

}  // namespace
}  // namespace rollcall::generator
