// Decoding speed through real gRPC on a Unix socket, client and server in one process.
//   generator_bench [--benchmark_filter=…]; stories260k needs ROLLCALL_TEST_DATA.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/checkpoint/hf_writer.h"
#include "common/checkpoint/scratch_folder.h"
#include "common/model/decoder.h"
#include "services/generator/testing/generator_server.h"

namespace rollcall::generator {
namespace {

constexpr uint32_t kGroups = 32;
constexpr uint32_t kSamplesPerGroup = 8;

v1::GenerateRequest Request(uint64_t group_id, uint32_t vocab, uint32_t prompt_tokens,
                            uint32_t max_tokens) {
  v1::GenerateRequest request;
  request.mutable_key()->set_purpose(v1::RANDOM_PURPOSE_INTERACTIVE);
  request.mutable_key()->set_group_id(group_id);
  for (uint32_t i = 0; i < prompt_tokens; ++i) {
    request.add_prompt_token_ids(static_cast<uint32_t>((group_id * 31 + i * 7) % vocab));
  }
  request.set_num_samples(kSamplesPerGroup);
  request.mutable_sampling()->set_max_tokens(max_tokens);
  request.mutable_stop()->set_ignore_eos(true);
  return request;
}

// 32 groups of 8 samples at once, until each has max_tokens.
void Run(benchmark::State& state, const std::string& folder, uint32_t prompt_tokens,
         uint32_t max_tokens) {
  testing::GeneratorServer server(folder, {"generator.kv_cache_bytes=1000000000"});
  const uint32_t vocab = server.State().vocab_size();
  for (auto _ : state) {
    std::vector<std::thread> clients;
    for (uint64_t group = 0; group < kGroups; ++group) {
      clients.emplace_back(
          [&, group] { server.Generate(Request(group, vocab, prompt_tokens, max_tokens)); });
    }
    for (std::thread& client : clients) client.join();
  }
  const double tokens =
      static_cast<double>(state.iterations()) * kGroups * kSamplesPerGroup * max_tokens;
  state.counters["tokens/s"] = benchmark::Counter(tokens, benchmark::Counter::kIsRate);
}

// Hidden 128, 2 layers, 4 heads, 16 tokens: about the size of the demo's model.
void BM_Tiny(benchmark::State& state) {
  checkpoint::ScratchFolder scratch;
  model::ModelConfig config;
  config.vocab_size = 16;
  config.hidden_size = 128;
  config.intermediate_size = 512;
  config.num_layers = 2;
  config.num_heads = config.num_kv_heads = 4;
  config.head_dim = 32;
  config.max_position_embeddings = 256;
  model::Decoder decoder = *model::Decoder::Create(config, at::kFloat, at::Device(at::kCPU));
  decoder.InitializeRandom(1);
  checkpoint::HfFolderSpec spec;
  spec.config_json = config.ToJson();
  spec.tensors = decoder.parameters();
  if (!checkpoint::WriteHfFolder(scratch / "model", spec).ok()) std::abort();
  Run(state, scratch / "model", 12, static_cast<uint32_t>(state.range(0)));
}
BENCHMARK(BM_Tiny)->Arg(20)->Arg(100)->MeasureProcessCPUTime()->UseRealTime()->Unit(
    benchmark::kMillisecond);

void BM_Stories260k(benchmark::State& state) {
  const char* data = std::getenv("ROLLCALL_TEST_DATA");
  if (data == nullptr) {
    state.SkipWithError("ROLLCALL_TEST_DATA is not set");
    return;
  }
  Run(state, absl::StrCat(data, "/stories260k"), 16, 128);
}
BENCHMARK(BM_Stories260k)->MeasureProcessCPUTime()->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace rollcall::generator
