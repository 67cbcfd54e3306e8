#include <benchmark/benchmark.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "common/text/text_test_data.h"
#include "common/text/tokenizer.h"

namespace rollcall::text {
namespace {

// A real vocabulary where this machine has one, else the smallest.
std::shared_ptr<const Tokenizer> BenchTokenizer() {
  const auto folder = TestData() / "golden/text/tokenizers/llama3_bytelevel";
  if (!TestData().empty()) return Tokenizer::Load(folder.string()).value();
  return Tokenizer::FromJson(kTinyTokenizer).value();
}

std::string Prose(size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += "abba cab, a cab a baa: bacca €";
  return text;
}

void BM_Encode(benchmark::State& state) {
  const auto tokenizer = BenchTokenizer();
  const std::string text = Prose(static_cast<size_t>(state.range(0)));
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer->Encode(text, true).value().size());
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(text.size()));
}
BENCHMARK(BM_Encode)->Arg(100)->Arg(10'000);

// Every line of the file ROLLCALL_BENCH_TEXT, one call each, with the tokenizer of the folder
// ROLLCALL_BENCH_TOKENIZER: what tests/bench/tokenizer_throughput.py compares.
void BM_EncodeFile(benchmark::State& state) {
  const char* folder = std::getenv("ROLLCALL_BENCH_TOKENIZER");
  const char* path = std::getenv("ROLLCALL_BENCH_TEXT");
  if (folder == nullptr || path == nullptr) {
    state.SkipWithError("needs ROLLCALL_BENCH_TOKENIZER and ROLLCALL_BENCH_TEXT");
    return;
  }
  const auto tokenizer = Tokenizer::Load(folder).value();
  std::vector<std::string> lines;
  std::ifstream file(path, std::ios::binary);
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  size_t tokens = 0, bytes = 0;
  for (auto _ : state) {
    tokens = bytes = 0;
    for (const std::string& line : lines) {
      tokens += tokenizer->Encode(line, true).value().size();
      bytes += line.size();
    }
  }
  state.counters["tokens"] = static_cast<double>(tokens);
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(bytes));
}
BENCHMARK(BM_EncodeFile)->Unit(benchmark::kMillisecond);

void BM_StreamStep(benchmark::State& state) {
  const auto tokenizer = BenchTokenizer();
  const std::vector<uint32_t> ids = tokenizer->Encode(Prose(2'000), false).value();
  StreamDecoder stream = tokenizer->NewStream(true);
  size_t next = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(stream.Step(ids[next]).value().size());
    next = (next + 1) % ids.size();
  }
}
BENCHMARK(BM_StreamStep);

void BM_ChatTemplate(benchmark::State& state) {
  const auto chat = ChatTemplate::Compile(
                        "{% for m in messages %}<|{{ m.role }}|>{{ m.content|trim }}<|end|>\n"
                        "{% endfor %}",
                        {})
                        .value();
  const std::string messages =
      R"([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}])";
  for (auto _ : state) benchmark::DoNotOptimize(chat->Render(messages, {}).value().text.size());
}
BENCHMARK(BM_ChatTemplate);

}  // namespace
}  // namespace rollcall::text
