// The log-probs that a generator of another process returns are, bit for bit, those of the learner's
// packed forward pass with gradients in this one, and those of a reference of a third: over random
// mixes of prompts, samples, temperatures, chunk sizes, cache sizes, threads, preemptions, shared
// prefixes and weight updates. The last test breaks one kernel after the other and sees it found.
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
#include <memory>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/base/file.h"
#include "common/base/philox.h"
#include "common/checkpoint/scratch_folder.h"
#include "common/model/batch_dependent_kernel.h"
#include "common/model/test_models.h"
#include "services/generator/testing/requests.h"
#include "services/generator/testing/tiny_model.h"
#include "tests/exactness/service_process.h"
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

// What comparisons came to.
struct Tally {
  uint64_t tokens = 0;      // against the learner
  uint64_t referenced = 0;  // of them also against a reference
  uint64_t differ = 0;      // by any bit, from either
  std::string first;        // that differed

  void Count(const float* returned, const std::vector<float>& expected, const std::string& what) {
    for (size_t i = 0; i < expected.size(); ++i) {
      if (std::memcmp(&returned[i], &expected[i], sizeof(float)) == 0) continue;
      if (differ++ == 0) first = absl::StrCat(what, ", token ", i);
    }
  }
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

  // From now on what versions 0 and the last drew is also compared with a reference of each. A
  // reference takes no adapters.
  void StartReferences() {
    if (GetParam().adapter) return;
    for (const uint64_t step : {0, kUpdates}) {
      const std::string home = scratch_ / absl::StrCat("reference", step);
      ASSERT_TRUE(generator::testing::WriteTinyFolder(home, versions_[step]).ok());
      references_[step] = std::make_unique<ReferenceProcess>(
          home, home,
          std::vector<std::string>{
              absl::StrCat("model.dtype=", GetParam().bfloat16 ? "bfloat16" : "float32"),
              step == 0 ? "reference.threads=1" : "reference.threads=2",
              step == 0 ? "reference.batch_tokens=3000" : "reference.batch_tokens=16384"});
      ASSERT_FALSE(HasFailure());
    }
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

  void Flush(uint64_t step, double temperature, Pack& pack, Tally& tally) {
    if (pack.sequences.empty()) return;
    const model::testing::ThreadCount threads(1 + static_cast<int>(random_.Below(2)));
    const auto expected =
        generator::testing::LearnerLogProbs(versions_.at(step), pack.sequences, temperature,
                                            /*backward=*/false);
    std::vector<std::vector<float>> scored;
    if (const auto reference = references_.find(step); reference != references_.end()) {
      auto scores = reference->second->Score(pack.sequences, temperature);
      ASSERT_TRUE(scores.ok()) << scores.status();
      ASSERT_EQ(scores->size(), expected.size());
      scored = *std::move(scores);
    }
    for (size_t i = 0; i < expected.size(); ++i) {
      const auto& [returned, what] = pack.returned[i];
      tally.tokens += expected[i].size();
      tally.Count(returned, expected[i], absl::StrCat(what, " under step ", step, ", learner"));
      if (scored.empty()) continue;
      ASSERT_EQ(scored[i].size(), expected[i].size());
      tally.referenced += scored[i].size();
      tally.Count(returned, scored[i], absl::StrCat(what, " under step ", step, ", reference"));
    }
    pack = Pack();
  }

  // Every token of every exchange, in packs of about kPackTokens.
  void Compare(const std::vector<Exchange>& exchanges, Tally& tally) {
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
        for (const v1::VersionSpan& span : sample.ends[0].version_spans()) {
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
          ASSERT_NO_FATAL_FAILURE(Flush(span.version().step(), temperature, pack, tally));
        }
      }
    }
    for (auto& [key, pack] : packs) {
      ASSERT_NO_FATAL_FAILURE(Flush(key.first, key.second, pack, tally));
    }
  }

  std::vector<model::Decoder> versions_;
  checkpoint::ScratchFolder scratch_;
  PhiloxStream random_{5, 5};
  std::map<uint64_t, std::unique_ptr<ReferenceProcess>> references_;  // by step
};

int64_t SpansOf(const std::vector<Exchange>& exchanges) {
  int64_t spans = 0;
  for (const Exchange& exchange : exchanges) {
    for (const auto& [index, sample] : exchange.outcome.samples) {
      for (const v1::SampleEnd& end : sample.ends) spans += end.version_spans_size();
    }
  }
  return spans;
}

int64_t SamplesOf(const std::vector<Exchange>& exchanges) {
  int64_t samples = 0;
  for (const Exchange& exchange : exchanges) samples += exchange.request.num_samples();
  return samples;
}

TEST_P(ExactnessTest, ReturnedLogProbsAreTheLearnersAndTheReferences) {
  const uint64_t wanted = WantedTokens();
  // Some 8,000 tokens come of 50 requests.
  const uint64_t count = std::clamp<uint64_t>(wanted / 160, 8, 50);
  double preemptions = 0, hits = 0;
  int64_t samples = 0, spans = 0;
  Tally tally;
  ASSERT_NO_FATAL_FAILURE(StartReferences());
  for (uint64_t round = 0; tally.tokens < wanted; ++round) {
    SCOPED_TRACE(absl::StrCat("round ", round));
    const std::string home = scratch_ / absl::StrCat("round", round);
    ASSERT_TRUE(MakeDirectories(home).ok());
    GeneratorProcess generator(home, folder(), RandomSettings(round));
    ASSERT_FALSE(HasFailure());
    ASSERT_TRUE(Push(generator, 0).ok());
    const uint64_t first = round * 1000;
    const std::vector<Exchange> exchanges = Crowd(generator, first, count, kUpdates);
    ASSERT_NO_FATAL_FAILURE(Compare(exchanges, tally));
    // All weights are the last ones now: the same requests alone, and in another crowd.
    const Exchange alone{RandomRequest(first + 500),
                         generator.Generate(RandomRequest(first + 500))};
    const std::vector<Exchange> crowd = Crowd(generator, first + 495, 8, 0);
    EXPECT_TRUE(SameSamples(alone.outcome, crowd[5].outcome));
    ASSERT_NO_FATAL_FAILURE(Compare(crowd, tally));
    ASSERT_EQ(tally.differ, 0u) << tally.first;
    preemptions += generator.Counter("rollcall_generator_preemptions_total");
    hits += generator.Counter("rollcall_generator_prefix_cache_hits_total");
    samples += SamplesOf(exchanges) + SamplesOf(crowd);
    spans += SpansOf(exchanges) + SpansOf(crowd);
  }
  RecordProperty("tokens", std::to_string(tally.tokens));
  std::printf(
      "%s: %lu tokens compared, %lu also with a reference, %.0f preemptions, %.0f prefix hits, %ld "
      "spans beyond one\n",
      GetParam().shape.name.c_str(), tally.tokens, tally.referenced, preemptions, hits,
      spans - samples);
  EXPECT_EQ(tally.referenced > 0, !GetParam().adapter);
  EXPECT_GT(hits, 0);
  // A short run may have too few requests at once.
  if (wanted >= 10000) {
    EXPECT_GT(preemptions, 0);
  }
  // Some samples ran across an update.
  EXPECT_GT(spans, samples);
}

std::vector<Model> Models() {
  std::vector<Model> models;
  for (const Shape& shape : Shapes()) {
    for (const bool bfloat16 : {false, true}) models.push_back({shape, bfloat16});
  }
  for (const bool bfloat16 : {false, true}) models.push_back({Shapes()[0], bfloat16, true});
  return models;
}

// The proof of the comparison: the same exchanges, with one kernel of the learner's process made to
// depend on the batch by one bit of a call's result.
class BrokenLearnerTest : public ExactnessTest {};

TEST_P(BrokenLearnerTest, IsFound) {
  const std::string home = scratch_ / "process";
  ASSERT_TRUE(MakeDirectories(home).ok());
  GeneratorProcess generator(home, folder(), RandomSettings(0));
  ASSERT_FALSE(HasFailure());
  ASSERT_TRUE(Push(generator, 0).ok());
  const std::vector<Exchange> exchanges = Crowd(generator, 0, 12, 0);
  Tally whole;
  ASSERT_NO_FATAL_FAILURE(Compare(exchanges, whole));
  EXPECT_EQ(whole.differ, 0u) << whole.first;
  for (const char* kernel : {"gemm", "rms_norm", "rotate", "glu", "packed_attention", "score"}) {
    const model::testing::BatchDependentKernel broken(kernel);
    Tally tally;
    ASSERT_NO_FATAL_FAILURE(Compare(exchanges, tally));
    std::printf("%s: %lu of %lu tokens differ\n", kernel, tally.differ, tally.tokens);
    EXPECT_GT(tally.differ, 0u) << kernel;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, BrokenLearnerTest,
                         ::testing::Values(Model{Shapes()[0], false}, Model{Shapes()[1], true}),
                         [](const auto& parameters) {
                           return parameters.param.bfloat16 ? "BFloat16" : "Float32";
                         });

INSTANTIATE_TEST_SUITE_P(Models, ExactnessTest, ::testing::ValuesIn(Models()),
                         [](const auto& parameters) {
                           return parameters.param.shape.name +
                                  (parameters.param.bfloat16 ? "BFloat16" : "Float32") +
                                  (parameters.param.adapter ? "Adapter" : "");
                         });

}  // namespace
}  // namespace rollcall::exactness
