#include "services/learner/rollout/generator_pool.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace rollcall::learner {

GeneratorPool::GeneratorPool(std::vector<std::string> addresses)
    : addresses_(std::move(addresses)), states_(addresses_.size()) {}

void GeneratorPool::MarkServing(size_t index, uint64_t step) {
  bool changed = false;
  {
    absl::MutexLock lock(&mutex_);
    changed = states_[index].step != step;
    states_[index].step = step;
    states_[index].why.clear();
  }
  if (changed && on_serving_) on_serving_();
}

void GeneratorPool::MarkUnusable(size_t index, std::string why) {
  absl::MutexLock lock(&mutex_);
  states_[index].step.reset();
  states_[index].why = std::move(why);
}

std::optional<size_t> GeneratorPool::Acquire(uint64_t step, uint32_t samples,
                                             std::optional<size_t> avoid) {
  absl::MutexLock lock(&mutex_);
  std::optional<size_t> best;
  for (size_t i = 0; i < states_.size(); ++i) {
    const State& state = states_[i];
    if (!state.step || *state.step < step) continue;
    const bool better =
        !best || (best == avoid) || (i != avoid && state.outstanding < states_[*best].outstanding);
    if (better) best = i;
  }
  if (best) states_[*best].outstanding += samples;
  return best;
}

void GeneratorPool::Release(size_t index, uint32_t samples) {
  absl::MutexLock lock(&mutex_);
  states_[index].outstanding -= samples;
}

bool GeneratorPool::AwaitServing(uint64_t step, absl::Time deadline) const {
  absl::MutexLock lock(&mutex_);
  const auto serving = [this, step]()
                           ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return Count(step) > 0; };
  return mutex_.AwaitWithDeadline(absl::Condition(&serving), deadline);
}

size_t GeneratorPool::CountServing(uint64_t step) const {
  absl::MutexLock lock(&mutex_);
  return Count(step);
}

size_t GeneratorPool::Count(uint64_t step) const {
  size_t count = 0;
  for (const State& state : states_) count += state.step && *state.step >= step ? 1 : 0;
  return count;
}

std::string GeneratorPool::DescribeMissing(uint64_t step) const {
  absl::MutexLock lock(&mutex_);
  std::string text;
  for (size_t i = 0; i < states_.size(); ++i) {
    const State& state = states_[i];
    if (state.step && *state.step >= step) continue;
    absl::StrAppend(&text, text.empty() ? "" : "; ", addresses_[i], ": ",
                    state.step ? absl::StrCat("serves step ", *state.step) : state.why);
  }
  return text;
}

}  // namespace rollcall::learner
