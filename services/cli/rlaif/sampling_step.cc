#include "services/cli/rlaif/sampling_step.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/bounded_queue.h"
#include "common/base/status.h"

namespace rollcall::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr absl::Duration kTick = absl::Milliseconds(100);
// Twice what a generator decodes at once by default, so that it never idles, in at most this many threads, which mostly
// wait.
constexpr uint32_t kSamplesInFlight = 512;
constexpr size_t kMostWorkers = 64;

struct Job {
  uint64_t item = 0;
  SamplingStep::Parts done;
};

// A part of an item, or how the work on it ended.
struct News {
  uint64_t item = 0;
  std::optional<std::pair<uint32_t, Json>> part;
  absl::Status ended;
};

// Threads that work on jobs and hand over what came out; stopped and joined at the end.
class Workers {
 public:
  Workers(const SamplingStep& step, const ServedModel& model, std::vector<Job> jobs,
          ActiveCalls& calls)
      : step_(step), model_(model), jobs_(std::move(jobs)), calls_(calls), news_(kMostWorkers) {
    const size_t wanted = std::max<uint32_t>(1, kSamplesInFlight / std::max(1u, step.CallSize()));
    const size_t count = std::min({kMostWorkers, wanted, jobs_.size()});
    for (size_t i = 0; i < count; ++i) threads_.emplace_back([this] { Run(); });
  }
  ~Workers() {
    calls_.Stop();
    news_.Close();
    for (std::thread& thread : threads_) thread.join();
  }

  size_t jobs() const { return jobs_.size(); }
  std::optional<News> PopFor(absl::Duration longest) { return news_.PopFor(longest); }

 private:
  void Run() {
    for (size_t i; !calls_.stopped() && (i = next_++) < jobs_.size();) {
      const uint64_t item = jobs_[i].item;
      auto part = static_cast<uint32_t>(jobs_[i].done.size());
      const auto emit = [&](Json json) {
        return news_.Push({.item = item, .part = std::pair(part++, std::move(json)), .ended = {}});
      };
      absl::Status ended = step_.Work(item, std::move(jobs_[i].done), model_, emit);
      if (!news_.Push({.item = item, .part = std::nullopt, .ended = std::move(ended)})) return;
    }
  }

  const SamplingStep& step_;
  const ServedModel& model_;
  std::vector<Job> jobs_;  // each taken by one thread
  ActiveCalls& calls_;
  std::atomic<size_t> next_ = 0;
  BoundedQueue<News> news_;
  std::vector<std::thread> threads_;
};

}  // namespace

std::map<uint64_t, SamplingStep::Parts> PartsOf(const ItemLog& log) {
  std::map<uint64_t, SamplingStep::Parts> items;
  for (const auto& [key, result] : log.items()) items[key.first].push_back(result);
  return items;
}

absl::Status RunItems(const SamplingStep& step, const ServedModel& model, ItemLog& log,
                      ActiveCalls& calls, const std::function<absl::Status(uint64_t)>& look) {
  std::map<uint64_t, SamplingStep::Parts> started = PartsOf(log);
  const std::vector<uint64_t> items = step.Items();
  std::vector<Job> jobs;
  for (const uint64_t item : items) {
    SamplingStep::Parts& done = started[item];
    if (!step.Complete(done)) jobs.push_back({item, std::move(done)});
  }
  uint64_t complete = items.size() - jobs.size();
  Workers workers(step, model, std::move(jobs), calls);
  for (size_t ended = 0; ended < workers.jobs();) {
    ROLLCALL_RETURN_IF_ERROR(look(complete));
    std::optional<News> news = workers.PopFor(kTick);
    if (!news) continue;
    if (news->part) {
      ROLLCALL_RETURN_IF_ERROR(
          log.Append({news->item, news->part->first}, std::move(news->part->second)));
      continue;
    }
    ROLLCALL_RETURN_IF_ERROR(Annotate(news->ended, absl::StrCat("item ", news->item)));
    ++complete;
    ++ended;
  }
  return look(complete);
}

}  // namespace rollcall::cli
