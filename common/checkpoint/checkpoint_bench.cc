// Loading and saving a checkpoint of 1 GB beside a plain read of its file: one that is made here, or
// the model folder ROLLCALL_BENCH_MODEL (of one file). warm:0 reads after the page cache was told to
// drop the file. peak_ratio: the most memory that loading had above what the process had before, as
// a share of the model (VmHWM: the parameters themselves, file pages and staging).
//
//   ROLLCALL_BENCH_MODEL=/models/my-model ./rollcall bench checkpoint

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "common/checkpoint/hf_folder.h"
#include "common/checkpoint/hf_writer.h"
#include "common/checkpoint/parameters.h"
#include "common/tensor/bridge.h"

namespace rollcall::checkpoint {
namespace {

constexpr int kRepetitions = 7;
constexpr int64_t kWidth = 1024;
// A vocabulary of 100 000, as embedding and head: 410 MB of the whole in bfloat16.
constexpr int64_t kVocabulary = 100'000;
constexpr int kLayers = 280;  // of one matrix each: 587 MB

std::vector<tensor::NamedTensor> Model() {
  const auto make = [](std::vector<int64_t> shape) {
    return at::full(shape, 0.5, at::TensorOptions().dtype(at::kBFloat16));
  };
  std::vector<tensor::NamedTensor> tensors;
  tensors.push_back({"model.embed_tokens.weight", make({kVocabulary, kWidth})});
  for (int layer = 0; layer < kLayers; ++layer) {
    tensors.push_back(
        {"model.layers." + std::to_string(layer) + ".weight", make({kWidth, kWidth})});
  }
  tensors.push_back({"lm_head.weight", make({kVocabulary, kWidth})});
  return tensors;
}

// A checkpoint on disk for all benchmarks; one that was made here is removed at the end.
class Checkpoint {
 public:
  static const Checkpoint& Get() {
    static const Checkpoint checkpoint;
    return checkpoint;
  }

  const std::string& folder() const { return folder_; }
  std::string file() const { return folder_ + "/model.safetensors"; }
  int64_t bytes() const { return static_cast<int64_t>(std::filesystem::file_size(file())); }
  std::string saved() const { return scratch_ + "_saved"; }

  // Parameters of the shapes and dtypes in the file, not filled.
  std::vector<tensor::NamedTensor> Parameters() const {
    const auto folder = HfFolder::Open(folder_);
    if (!folder.ok()) std::abort();
    std::vector<tensor::NamedTensor> parameters;
    for (const TensorView* stored : folder->tensors()) {
      parameters.push_back(
          {stored->name, at::empty(stored->shape, at::TensorOptions().dtype(
                                                      tensor::ScalarTypeOf(stored->dtype)))});
    }
    return parameters;
  }

  static void Write(const std::string& folder, const std::vector<tensor::NamedTensor>& tensors) {
    HfFolderSpec spec;
    spec.config_json = "{}";
    spec.tensors = tensors;
    if (!WriteHfFolder(folder, spec).ok()) std::abort();
  }

 private:
  Checkpoint()
      : scratch_((std::filesystem::temp_directory_path() /
                  ("rollcall_checkpoint_bench_" + std::to_string(getpid())))
                     .string()) {
    // Large blocks go back to the system when they are freed: what an earlier repetition had is
    // not in the next one's baseline.
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    const char* given = std::getenv("ROLLCALL_BENCH_MODEL");
    folder_ = given == nullptr ? scratch_ : given;
    if (given == nullptr) Write(folder_, Model());
  }
  ~Checkpoint() {
    std::error_code ignored;
    std::filesystem::remove_all(scratch_, ignored);
  }

  const std::string scratch_;
  std::string folder_;
};

// Puts the file into the page cache, or out of it.
void SetCached(const std::string& path, bool cached) {
  const int fd = open(path.c_str(), O_RDONLY);
  if (fd < 0) std::abort();
  if (!cached) {
    fdatasync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  } else {
    std::vector<char> buffer(1 << 20);
    while (read(fd, buffer.data(), buffer.size()) > 0) {
    }
  }
  close(fd);
}

// Bytes of a line of /proc/self/status.
int64_t MemoryOf(const std::string& key) {
  std::ifstream status("/proc/self/status");
  std::string word;
  int64_t kilobytes = 0;
  while (status >> word) {
    if (word == key + ":" && status >> kilobytes) return kilobytes * 1024;
  }
  return 0;
}

void ResetPeak() { std::ofstream("/proc/self/clear_refs") << "5"; }

void BM_PlainRead(benchmark::State& state) {
  const Checkpoint& checkpoint = Checkpoint::Get();
  std::vector<char> buffer(1 << 20);
  for (auto _ : state) {
    state.PauseTiming();
    SetCached(checkpoint.file(), state.range(0) != 0);
    state.ResumeTiming();
    const int fd = open(checkpoint.file().c_str(), O_RDONLY);
    while (read(fd, buffer.data(), buffer.size()) > 0) {
    }
    close(fd);
  }
  state.SetBytesProcessed(state.iterations() * checkpoint.bytes());
}

void BM_Load(benchmark::State& state) {
  const Checkpoint& checkpoint = Checkpoint::Get();
  double peak_ratio = 0;
  for (auto _ : state) {
    state.PauseTiming();
    SetCached(checkpoint.file(), state.range(0) != 0);
    ResetPeak();
    const int64_t before = MemoryOf("VmRSS");
    state.ResumeTiming();
    const std::vector<tensor::NamedTensor> parameters = checkpoint.Parameters();
    const auto folder = HfFolder::Open(checkpoint.folder());
    if (!folder.ok() || !LoadParameters(*folder, parameters).ok()) std::abort();
    state.PauseTiming();
    const auto peak = static_cast<double>(MemoryOf("VmHWM") - before);
    peak_ratio = std::max(peak_ratio, peak / static_cast<double>(checkpoint.bytes()));
    state.ResumeTiming();
  }
  state.SetBytesProcessed(state.iterations() * checkpoint.bytes());
  state.counters["peak_ratio"] = peak_ratio;
}

// On disk when it returns: the file is synced.
void BM_Save(benchmark::State& state) {
  const Checkpoint& checkpoint = Checkpoint::Get();
  const std::vector<tensor::NamedTensor> tensors = checkpoint.Parameters();
  const auto folder = HfFolder::Open(checkpoint.folder());
  if (!folder.ok() || !LoadParameters(*folder, tensors).ok()) std::abort();
  for (auto _ : state) Checkpoint::Write(checkpoint.saved(), tensors);
  state.SetBytesProcessed(state.iterations() * checkpoint.bytes());
  std::filesystem::remove_all(checkpoint.saved());
}

double Least(const std::vector<double>& values) {
  return *std::min_element(values.begin(), values.end());
}
double Most(const std::vector<double>& values) {
  return *std::max_element(values.begin(), values.end());
}

void Timed(benchmark::internal::Benchmark* benchmark) {
  benchmark->Unit(benchmark::kMillisecond)
      ->UseRealTime()
      ->Iterations(1)
      ->Repetitions(kRepetitions)
      ->ReportAggregatesOnly()
      ->ComputeStatistics("min", Least)
      ->ComputeStatistics("max", Most);
}

BENCHMARK(BM_PlainRead)->ArgName("warm")->Arg(0)->Arg(1)->Apply(Timed);
BENCHMARK(BM_Load)->ArgName("warm")->Arg(0)->Arg(1)->Apply(Timed);
BENCHMARK(BM_Save)->Apply(Timed);

}  // namespace
}  // namespace rollcall::checkpoint
