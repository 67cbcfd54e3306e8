#include "common/tensor/compute_team.h"

#include <ATen/Parallel.h>

#include <atomic>
#include <exception>
#include <memory>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/machine_limits.h"

namespace rollcall::tensor {
namespace {

// How long an idle thread looks for the next call before it sleeps: a pause takes some 10 to 40 ns,
// and what lies between two products of one step is a few microseconds.
constexpr int kSpins = 1000;

thread_local bool t_in_team = false;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

class Team {
 public:
  Team(uint32_t threads, const std::vector<int>& cores) {
    for (uint32_t i = 1; i < threads; ++i) {
      const int core = i < cores.size() ? cores[i] : -1;
      workers_.emplace_back([this, core] { Work(core); });
    }
  }
  ~Team() {
    stopping_ = true;
    ++gate_;
    gate_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }
  size_t threads() const { return workers_.size() + 1; }

  void Run(absl::FunctionRef<void()> work) {
    work_ = &work;
    ++gate_;  // open
    gate_.notify_all();
    Call();
    ++gate_;  // closed: who is not inside stays outside
    for (int spin = 0; inside_ != 0 && spin < kSpins; ++spin) Pause();
    for (int inside = inside_; inside != 0; inside = inside_) inside_.wait(inside);
    std::exception_ptr error;
    {
      absl::MutexLock lock(&mutex_);
      error = std::exchange(error_, nullptr);
    }
    if (error != nullptr) std::rethrow_exception(error);
  }

 private:
  void Call() {
    t_in_team = true;
    try {
      (*work_)();
    } catch (...) {
      absl::MutexLock lock(&mutex_);
      error_ = std::current_exception();
    }
    t_in_team = false;
  }

  void Work(int core) {
    if (core >= 0) BindThread({core});
    uint32_t done = 0;  // the gate at the last call
    while (true) {
      uint32_t gate = gate_;
      for (int spin = 0; !IsNew(gate, done) && spin < kSpins; ++spin) {
        Pause();
        gate = gate_;
      }
      if (!IsNew(gate, done)) {
        gate_.wait(gate);
        continue;
      }
      if (stopping_) return;
      done = gate;
      // Either the caller sees us inside, or we see that the gate has closed: both orders are total.
      ++inside_;
      if (gate_ == gate) Call();
      if (--inside_ == 0) inside_.notify_all();
    }
  }

  static bool IsNew(uint32_t gate, uint32_t done) { return gate % 2 == 1 && gate != done; }

  const absl::FunctionRef<void()>* work_ = nullptr;  // read inside only
  std::atomic<uint32_t> gate_{0};                    // odd: open
  std::atomic<int> inside_{0};
  std::atomic<bool> stopping_{false};
  absl::Mutex mutex_;
  std::exception_ptr error_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> workers_;
};

thread_local std::unique_ptr<Team> t_team;

}  // namespace

void RunOnTeam(absl::FunctionRef<void()> work) {
  const auto threads = static_cast<size_t>(at::get_num_threads());
  if (t_team == nullptr || t_team->threads() != threads) {
    StartTeam(static_cast<uint32_t>(threads), {});
  }
  t_team->Run(work);
}

bool InTeam() { return t_in_team; }

void StartTeam(uint32_t threads, const std::vector<int>& cores) {
  t_team = std::make_unique<Team>(threads, cores);
}

}  // namespace rollcall::tensor
