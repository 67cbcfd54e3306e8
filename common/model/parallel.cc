#include "common/model/parallel.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>

#include "common/tensor/compute_team.h"

namespace rollcall::model {
namespace {

// Waking a second thread that sleeps costs about 5 microseconds, the time of some 250,000
// multiply-adds on one core.
constexpr int64_t kSerialWork = 250000;

class Scratch {
 public:
  float* Reserve(int64_t floats) {
    if (floats > capacity_) {
      data_.reset(static_cast<float*>(std::aligned_alloc(64, (floats * 4 + 63) / 64 * 64)));
      capacity_ = data_ == nullptr ? 0 : floats;
      if (data_ == nullptr) throw std::bad_alloc();
    }
    return data_.get();
  }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> data_;
  int64_t capacity_ = 0;
};

float* ThreadScratch(int64_t floats) {
  thread_local Scratch scratch;
  return scratch.Reserve(floats);
}

}  // namespace

void ParallelTasks(int64_t count, int64_t scratch_floats, int64_t work,
                   absl::FunctionRef<void(int64_t task, float* scratch)> task) {
  const int64_t threads = std::min<int64_t>(count, at::get_num_threads());
  if (threads <= 1 || work < kSerialWork || tensor::InTeam() || at::in_parallel_region()) {
    float* scratch = ThreadScratch(scratch_floats);
    for (int64_t i = 0; i < count; ++i) task(i, scratch);
    return;
  }
  std::atomic<int64_t> next{0};
  tensor::RunOnTeam([&] {
    float* scratch = ThreadScratch(scratch_floats);
    for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) task(i, scratch);
  });
}

void ParallelRanges(int64_t count, int64_t grain, int64_t work,
                    absl::FunctionRef<void(int64_t begin, int64_t end)> task) {
  const int64_t pieces = std::max<int64_t>(1, 4 * at::get_num_threads());
  const int64_t wanted = std::max<int64_t>(1, (count + pieces - 1) / pieces);
  const int64_t length = (wanted + grain - 1) / grain * grain;
  ParallelTasks((count + length - 1) / length, 0, work,
                [&](int64_t i, float*) { task(i * length, std::min(count, (i + 1) * length)); });
}

}  // namespace rollcall::model
