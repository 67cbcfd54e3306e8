// Streaming a JSONL file of ROLLCALL_BENCH_DATA_MB (64) MB: the pass over it at start-up, rows in
// shuffled order, and what of the process's memory that takes.
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "common/base/philox.h"
#include "common/text/parquet_file.h"
#include "common/text/tokenizer.h"
#include "services/learner/data/demonstrations.h"
#include "services/learner/data/row_stream.h"

namespace rollcall::learner {
namespace {

uint64_t FileBytes() {
  const char* megabytes = std::getenv("ROLLCALL_BENCH_DATA_MB");
  return (megabytes == nullptr ? 64 : std::strtoull(megabytes, nullptr, 10)) * 1'000'000;
}

// A row of about 1 KB.
std::string Line(uint64_t row, PhiloxStream& random) {
  std::string line = "{\"prompt\": \"question " + std::to_string(row) + "\", \"completion\": \"";
  for (uint64_t words = 100 + random.Below(200); words > 0; --words) {
    line += static_cast<char>('a' + random.Below(26));
    line += words % 16 == 0 ? "\xc3\xa9 " : "ow ";
  }
  return line + "\"}\n";
}

// A file made once and removed at exit: FileBytes() of JSONL, or 32 MB of Parquet in row groups of
// 1,000 rows.
class BenchFile {
 public:
  explicit BenchFile(const std::string& ending) {
    path_ = std::filesystem::temp_directory_path() /
            ("rollcall_row_stream_bench_" + std::to_string(getpid()) + ending);
    PhiloxStream random(1, 1);
    if (ending == ".parquet") {
      std::string rows;
      for (uint64_t row = 0; rows.size() < 32'000'000; ++row) rows += Line(row, random);
      size_ = rows.size();
      text::WriteParquet(path_.string(), rows, 1000, "snappy").IgnoreError();
      return;
    }
    std::ofstream out(path_, std::ios::binary);
    for (uint64_t row = 0; size_ < FileBytes(); ++row) {
      const std::string line = Line(row, random);
      out << line;
      size_ += line.size();
    }
  }
  ~BenchFile() { std::filesystem::remove(path_); }

  v1::DataSection Data() const {
    v1::DataSection data;
    data.add_train()->set_path(path_.string());
    data.set_shuffle(true);
    data.set_prompt_column("prompt");
    data.set_completion_column("completion");
    data.set_max_prompt_tokens(1000);
    return data;
  }
  uint64_t size() const { return size_; }

 private:
  uint64_t size_ = 0;
  std::filesystem::path path_;
};

const BenchFile& Jsonl() {
  static const BenchFile file(".jsonl");
  return file;
}

const BenchFile& Parquet() {
  static const BenchFile file(".parquet");
  return file;
}

// Resident memory of this process in MB; `field` is VmRSS or VmHWM, its peak.
double MemoryMb(const std::string& field) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(field + ":"))
      return std::strtod(line.c_str() + field.size() + 1, nullptr) / 1000;
  }
  return 0;
}

void BM_Open(benchmark::State& state) {
  const v1::DataSection data = Jsonl().Data();
  const double before = MemoryMb("VmRSS");
  for (auto _ : state) {
    auto stream = RowStream::Open(data, data.train(), 1);
    if (!stream.ok()) return state.SkipWithError(stream.status().ToString().c_str());
    benchmark::DoNotOptimize((*stream)->rows());
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * Jsonl().size()));
  state.counters["peak_MB_above_start"] = MemoryMb("VmHWM") - before;
}
BENCHMARK(BM_Open)->Unit(benchmark::kMillisecond);

void ReadRows(benchmark::State& state, const BenchFile& file) {
  const v1::DataSection data = file.Data();
  const double before = MemoryMb("VmRSS");
  const auto stream = RowStream::Open(data, data.train(), 1);
  if (!stream.ok()) return state.SkipWithError(stream.status().ToString().c_str());
  uint64_t ordinal = 0;
  int64_t bytes = 0;
  const auto on_row = [&](const RowStream::Draw&, const RowPlace&,
                          const absl::StatusOr<nlohmann::json>& row) {
    if (row.ok())
      bytes += static_cast<int64_t>(row->at("completion").get_ref<const std::string&>().size());
    return row.status();
  };
  for (auto _ : state) {
    const absl::Status status = (*stream)->Visit(ordinal++, on_row);
    if (!status.ok()) return state.SkipWithError(status.ToString().c_str());
  }
  state.SetItemsProcessed(state.iterations());
  state.SetBytesProcessed(bytes);
  state.counters["peak_MB_above_start"] = MemoryMb("VmHWM") - before;
}

void BM_ShuffledJsonlRows(benchmark::State& state) { ReadRows(state, Jsonl()); }
BENCHMARK(BM_ShuffledJsonlRows)->Unit(benchmark::kMicrosecond)->MinTime(2);

void BM_ShuffledParquetRows(benchmark::State& state) { ReadRows(state, Parquet()); }
BENCHMARK(BM_ShuffledParquetRows)->Unit(benchmark::kMicrosecond)->MinTime(2);

// With the tokenizer of the folder $ROLLCALL_TEST_DATA/stories260k, batches of 64.
void BM_TokenisedBatches(benchmark::State& state) {
  const char* folder = std::getenv("ROLLCALL_TEST_DATA");
  const auto tokenizer =
      text::Tokenizer::Load(std::string(folder == nullptr ? "" : folder) + "/stories260k");
  if (!tokenizer.ok()) return state.SkipWithError("needs $ROLLCALL_TEST_DATA/stories260k");
  const v1::DataSection data = Jsonl().Data();
  const auto examples = OpenDemonstrations(data, data.train(), **tokenizer, 0, 1, 0);
  if (!examples.ok()) return state.SkipWithError(examples.status().ToString().c_str());
  DemonstrationSource source(*examples, 64);
  uint64_t step = 0;
  double tokens = 0;
  for (auto _ : state) {
    const auto batch = source.Next(++step);
    if (!batch.ok()) return state.SkipWithError(batch.status().ToString().c_str());
    tokens += 64 * batch->metrics.at("length/mean");
  }
  state.counters["tokens_per_s"] = benchmark::Counter(tokens, benchmark::Counter::kIsRate);
}
BENCHMARK(BM_TokenisedBatches)->Unit(benchmark::kMillisecond)->MinTime(2);

}  // namespace
}  // namespace rollcall::learner
