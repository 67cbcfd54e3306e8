// The log-probs that a generator of another process returns are, bit for bit, those of the learner's
// packed forward pass with gradients in this one: over random mixes of prompts, samples,
// temperatures, chunk sizes, cache sizes, threads, preemptions, shared prefixes and weight updates.
//
//   ROLLCALL_EXACTNESS_TOKENS   sampled tokens to compare for each of the twelve models; 800 unless set
#include <ATen/core/TensorBody.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/base/file.h"
#include "common/base/philox.h"
#include "common/checkpoint/scratch_folder.h"
#include "common/model/test_models.h"
#include "services/generator/testing/requests.h"
#include "services/generator/testing/tiny_model.h"
#include "tests/exactness/generator_process.h"
#include "tests/exactness/shapes.h"

namespace rollcall::exactness {
namespace {

using generator::testing::Outcome;
using generator::testing::Published;
using generator::testing::SameSamples;
using generator::testing::ScoredSequence;

constexpr uint32_t kVocab = 301;
constexpr uint64_t kLongestPrompt = 2000;
constexpr int kClients = 12;
constexpr int kUpdates = 2;  // in each round, by requests that are done
// Tokens in one packed pass of the learner.
constexpr size_t kPackTokens = 8192;

uint64_t WantedTokens() {
  const char* text = std::getenv("ROLLCALL_EXACTNESS_TOKENS");
  uint64_t tokens = 800;
  if (text != nullptr && !absl::SimpleAtoi(text, &tokens))
    ADD_FAILURE() << "not a number: " << text;
  return tokens;
}

v1::GenerateRequest RandomRequest(uint64_t group_id) {
  PhiloxStream random(group_id, 3);
  v1::GenerateRequest request;
  request.mutable_key()->set_run_seed(11);
  request.mutable_key()->set_purpose(v1::RANDOM_PURPOSE_ROLLOUT);
  request.mutable_key()->set_group_id(group_id);
  // As many short prompts as long ones: the largest doubles six times.
  const uint64_t longest = std::min<uint64_t>(kLongestPrompt, uint64_t{32} << random.Below(7));
  const uint64_t prompt = 1 + random.Below(longest);
  // Prompts of a few families, which part somewhere: what they share comes from the prefix cache.
  PhiloxStream family(random.Below(4), 9);
  const uint64_t common = random.Below(prompt + 1);
  for (uint64_t i = 0; i < prompt; ++i) {
    request.add_prompt_token_ids(
        static_cast<uint32_t>(i < common ? family.Below(kVocab) : random.Below(kVocab)));
  }
  request.set_num_samples(1 + static_cast<uint32_t>(random.Below(8)));
  request.mutable_sampling()->set_max_tokens(1 + static_cast<uint32_t>(random.Below(100)));
  request.mutable_sampling()->set_temperature(group_id % 2 == 0 ? 1.0f : 0.7f);
  if (random.Below(3) == 0) request.mutable_sampling()->set_top_p(0.9f);
  request.mutable_stop()->set_ignore_eos(random.Below(4) != 0);
  return request;
}

struct Exchange {
  v1::GenerateRequest request;
  Outcome outcome;
};

struct Model {
  Shape shape;
  bool bfloat16;
  bool adapter = false;  // the versions are adapters of one base
};

// A random adapter whose two matrices count.
void Adapt(model::Decoder& decoder, uint64_t seed) {
  ASSERT_TRUE(decoder.AddAdapter({.r = 6, .alpha = 9}).ok());
  const at::NoGradGuard no_grad;
  PhiloxStream random(seed, 3);
  for (const auto& [name, tensor] : decoder.adapter_parameters()) {
    tensor.copy_(model::testing::RandomNormal(tensor.sizes(), random).mul_(0.1));
  }
}

class ExactnessTest : public ::testing::TestWithParam<Model> {
 protected:
  ExactnessTest() {
    const Model& parameters = GetParam();
    const auto config = *model::ModelConfig::FromJson(parameters.shape.config_json, "config.json");
    const at::ScalarType dtype = parameters.bfloat16 ? at::kBFloat16 : at::kFloat;
    for (uint64_t step = 0; step <= kUpdates; ++step) {
      const uint64_t seed = parameters.adapter ? 40 : 40 + step;
      versions_.push_back(model::testing::RandomDecoder(config, dtype, seed));
      if (parameters.adapter) Adapt(versions_.back(), step);
    }
    EXPECT_TRUE(generator::testing::WriteTinyFolder(folder(), versions_[0]).ok());
  }
  std::string folder() const { return scratch_ / "model"; }

  std::vector<std::string> RandomSettings(uint64_t round) {
    const auto one_of = [this](const std::vector<std::string>& choices) {
      return choices[random_.Below(choices.size())];
    };
    // One longest sequence takes 144 blocks; here a few more fit, so samples are preempted.
    const int64_t block =
        model::KvCache::BytesPerBlock(versions_[0].config(), 16, versions_[0].dtype());
    const int64_t blocks = 146 + (round == 0 ? 0 : static_cast<int64_t>(random_.Below(150)));
    return {absl::StrCat("model.dtype=", GetParam().bfloat16 ? "bfloat16" : "float32"),
            "generator.threads=" + one_of({"1", "2"}),
            "generator.max_step_tokens=" + one_of({"29", "160", "700", "4096"}),
            absl::StrCat("generator.prefix_cache=", round % 4 != 3 ? "true" : "false"),
            absl::StrCat("generator.kv_cache_bytes=", blocks * block)};
  }

  absl::Status Push(GeneratorProcess& generator, uint64_t step) {
    const Published published(versions_[step], folder(), 1, step);
    return generator.PushWeights(published.version, published.manifest, published.tensors, 1 << 20,
                                 published.adapter);
  }

  // Runs requests [first, first + count) by many clients at once; `updates`: and pushes the next
  // versions as they get done.
  std::vector<Exchange> Crowd(GeneratorProcess& generator, uint64_t first, uint64_t count,
                              int updates) {
    std::vector<Exchange> exchanges(count);
    absl::Mutex mutex;
    uint64_t next = 0, done = 0;
    std::vector<std::thread> threads;
    for (int client = 0; client < kClients; ++client) {
      threads.emplace_back([&] {
        while (true) {
          uint64_t mine = 0;
          {
            absl::MutexLock lock(&mutex);
            if (next == count) return;
            mine = next++;
          }
          exchanges[mine].request = RandomRequest(first + mine);
          exchanges[mine].outcome = generator.Generate(exchanges[mine].request);
          absl::MutexLock lock(&mutex);
          ++done;
        }
      });
    }
    for (int update = 1; update <= updates; ++update) {
      const uint64_t when = count * static_cast<uint64_t>(update) / (updates + 1);
      const auto reached = [&] { return done >= when; };
      {
        absl::MutexLock lock(&mutex);
        mutex.Await(absl::Condition(&reached));
      }
      EXPECT_TRUE(Push(generator, static_cast<uint64_t>(update)).ok());
    }
    for (std::thread& thread : threads) thread.join();
    return exchanges;
  }

  // Tokens of one version that the learner scores together.
  struct Pack {
    std::vector<ScoredSequence> sequences;
    std::vector<std::pair<const float*, std::string>> returned;
    size_t tokens = 0;
  };

  void Flush(uint64_t step, double temperature, Pack& pack) {
    if (pack.sequences.empty()) return;
    const model::testing::ThreadCount threads(1 + static_cast<int>(random_.Below(2)));
    const auto expected =
        generator::testing::LearnerLogProbs(versions_.at(step), pack.sequences, temperature,
                                            /*backward=*/false);
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(std::memcmp(expected[i].data(), pack.returned[i].first,
                            sizeof(float) * expected[i].size()),
                0)
          << pack.returned[i].second << " under step " << step;
      compared_ += expected[i].size();
    }
    pack = Pack();
  }

  void Compare(const std::vector<Exchange>& exchanges) {
    std::map<std::pair<uint64_t, float>, Pack> packs;
    for (const Exchange& exchange : exchanges) {
      const v1::GenerateRequest& request = exchange.request;
      ASSERT_TRUE(exchange.outcome.status.ok()) << exchange.outcome.status;
      ASSERT_EQ(exchange.outcome.samples.size(), request.num_samples());
      for (const auto& [index, sample] : exchange.outcome.samples) {
        std::vector<uint32_t> tokens(request.prompt_token_ids().begin(),
                                     request.prompt_token_ids().end());
        tokens.insert(tokens.end(), sample.tokens.begin(), sample.tokens.end());
        ASSERT_EQ(sample.ends.size(), 1u);
        const auto& spans = sample.ends[0].version_spans();
        spans_ += spans.size();
        for (const v1::VersionSpan& span : spans) {
          ASSERT_FALSE(span.mixed_kv());
          const size_t prompt = static_cast<size_t>(request.prompt_token_ids_size());
          ScoredSequence sequence{.tokens = tokens, .prompt_tokens = prompt + span.begin()};
          sequence.tokens.resize(prompt + span.end());
          const float temperature = request.sampling().temperature();
          Pack& pack = packs[{span.version().step(), temperature}];
          pack.tokens += sequence.tokens.size();
          pack.sequences.push_back(std::move(sequence));
          pack.returned.emplace_back(
              sample.logprobs.data() + span.begin(),
              absl::StrCat("group ", request.key().group_id(), " sample ", index));
          if (pack.tokens < kPackTokens) continue;
          ASSERT_NO_FATAL_FAILURE(Flush(span.version().step(), temperature, pack));
        }
      }
    }
    for (auto& [key, pack] : packs) ASSERT_NO_FATAL_FAILURE(Flush(key.first, key.second, pack));
  }

  std::vector<model::Decoder> versions_;
  checkpoint::ScratchFolder scratch_;
  PhiloxStream random_{5, 5};
  uint64_t compared_ = 0;
  int64_t spans_ = 0;
};

TEST_P(ExactnessTest, ReturnedLogProbsAreTheLearners) {
  const uint64_t wanted = WantedTokens();
  // Some 8,000 tokens come of 50 requests.
  const uint64_t count = std::clamp<uint64_t>(wanted / 160, 8, 50);
  double preemptions = 0, hits = 0;
  int64_t samples = 0;
  for (uint64_t round = 0; compared_ < wanted; ++round) {
    SCOPED_TRACE(absl::StrCat("round ", round));
    const std::string home = scratch_ / absl::StrCat("round", round);
    ASSERT_TRUE(MakeDirectories(home).ok());
    GeneratorProcess generator(home, folder(), RandomSettings(round));
    ASSERT_FALSE(HasFailure());
    ASSERT_TRUE(Push(generator, 0).ok());
    const uint64_t first = round * 1000;
    const std::vector<Exchange> exchanges = Crowd(generator, first, count, kUpdates);
    for (const Exchange& exchange : exchanges) samples += exchange.request.num_samples();
    ASSERT_NO_FATAL_FAILURE(Compare(exchanges));
    // All weights are the last ones now: the same requests alone, and in another crowd.
    const Exchange alone{RandomRequest(first + 500),
                         generator.Generate(RandomRequest(first + 500))};
    const std::vector<Exchange> crowd = Crowd(generator, first + 495, 8, 0);
    EXPECT_TRUE(SameSamples(alone.outcome, crowd[5].outcome));
    ASSERT_NO_FATAL_FAILURE(Compare(crowd));
    preemptions += generator.Counter("rollcall_generator_preemptions_total");
    hits += generator.Counter("rollcall_generator_prefix_cache_hits_total");
    for (const Exchange& exchange : crowd) samples += exchange.request.num_samples();
  }
  RecordProperty("tokens", std::to_string(compared_));
  std::printf("%s: %lu tokens compared, %.0f preemptions, %.0f prefix hits, %ld spans beyond one\n",
              GetParam().shape.name.c_str(), compared_, preemptions, hits, spans_ - samples);
  EXPECT_GT(hits, 0);
  // A short run may have too few requests at once.
  if (wanted >= 10000) {
    EXPECT_GT(preemptions, 0);
  }
  // Some samples ran across an update.
  EXPECT_GT(spans_, samples);
}

std::vector<Model> Models() {
  std::vector<Model> models;
  for (const Shape& shape : Shapes()) {
    for (const bool bfloat16 : {false, true}) models.push_back({shape, bfloat16});
  }
  for (const bool bfloat16 : {false, true}) models.push_back({Shapes()[0], bfloat16, true});
  return models;
}

INSTANTIATE_TEST_SUITE_P(Models, ExactnessTest, ::testing::ValuesIn(Models()),
                         [](const auto& parameters) {
                           return parameters.param.shape.name +
                                  (parameters.param.bfloat16 ? "BFloat16" : "Float32") +
                                  (parameters.param.adapter ? "Adapter" : "");
                         });

}  // namespace
}  // namespace rollcall::exactness
