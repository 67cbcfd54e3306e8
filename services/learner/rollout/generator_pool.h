#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace rollcall::learner {

// What is known of each generator and how much work it has been given: who gets the next group. The
// publisher's links report what a generator holds; the group runner acquires and releases.
// Thread-safe; only AwaitServing
// blocks.
class GeneratorPool {
 public:
  explicit GeneratorPool(std::vector<std::string> addresses);

  size_t size() const { return addresses_.size(); }
  const std::string& address(size_t index) const { return addresses_[index]; }

  // Generator `index` was seen serving the weights of `step`.
  void MarkServing(size_t index, uint64_t step) ABSL_LOCKS_EXCLUDED(mutex_);
  // It cannot be given work until MarkServing; `why` is for people.
  void MarkUnusable(size_t index, std::string why) ABSL_LOCKS_EXCLUDED(mutex_);

  // The generator with the fewest outstanding samples among those that serve `step` or a later one;
  // ties go to the lowest index, and `avoid` (who just failed) is taken only when there is no
  // other. Counts `samples` as its work. nullopt: none serves that step now.
  std::optional<size_t> Acquire(uint64_t step, uint32_t samples, std::optional<size_t> avoid)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void Release(size_t index, uint32_t samples) ABSL_LOCKS_EXCLUDED(mutex_);

  // Blocks until some generator serves `step` or later, or until the deadline; whether one does.
  bool AwaitServing(uint64_t step, absl::Time deadline) const ABSL_LOCKS_EXCLUDED(mutex_);

  // How many generators serve `step` or later.
  size_t CountServing(uint64_t step) const ABSL_LOCKS_EXCLUDED(mutex_);
  // "unix:/a: connection refused; unix:/b: serves step 3": every generator that does not serve
  // `step`.
  std::string DescribeMissing(uint64_t step) const ABSL_LOCKS_EXCLUDED(mutex_);

  // Called, on the reporting thread and without a lock, whenever a generator becomes usable. Set
  // before any thread uses the pool.
  void OnServing(std::function<void()> callback) { on_serving_ = std::move(callback); }

 private:
  struct State {
    std::optional<uint64_t> step;  // unset: unusable
    std::string why = "not seen yet";
    uint64_t outstanding = 0;
  };

  size_t Count(uint64_t step) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  const std::vector<std::string> addresses_;
  std::function<void()> on_serving_;

  mutable absl::Mutex mutex_;
  std::vector<State> states_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rollcall::learner
