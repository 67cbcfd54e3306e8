#include "common/base/machine_limits.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/file.h"

namespace rollcall {
namespace {

// Version 1 says "no limit" by a number near 2^63.
constexpr uint64_t kNoLimit = uint64_t{1} << 60;

std::optional<uint64_t> NumberIn(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(path);
  uint64_t number = 0;
  if (!text.ok() || !absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &number)) {
    return std::nullopt;
  }
  return number;
}

// The number after `key` in a file of lines "key number [unit]"; 0: there is none.
uint64_t FieldIn(const std::string& path, std::string_view key) {
  const absl::StatusOr<std::string> text = ReadFile(path);
  if (!text.ok()) return 0;
  for (const auto line : absl::StrSplit(*text, '\n')) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    uint64_t number = 0;
    if (words.size() >= 2 && words[0] == key && absl::SimpleAtoi(words[1], &number)) return number;
  }
  return 0;
}

// One folder of control groups, whatever the version: files that are not there say nothing.
class ControlGroup {
 public:
  explicit ControlGroup(std::string folder) : folder_(std::move(folder)) {}

  const std::string& folder() const { return folder_; }

  std::optional<double> CpuQuota() const {
    const absl::StatusOr<std::string> text = ReadFile(folder_ + "/cpu.max");
    std::vector<std::string> words;
    if (text.ok()) words = absl::StrSplit(absl::StripAsciiWhitespace(*text), ' ');
    uint64_t quota = 0, period = 0;
    if (words.size() == 2 && absl::SimpleAtoi(words[0], &quota) &&
        absl::SimpleAtoi(words[1], &period) && period > 0) {
      return static_cast<double>(quota) / static_cast<double>(period);
    }
    // Version 1; no quota is -1, which is no unsigned number.
    const auto quota_v1 = NumberIn(folder_ + "/cpu.cfs_quota_us");
    const auto period_v1 = NumberIn(folder_ + "/cpu.cfs_period_us");
    if (!quota_v1 || !period_v1 || *period_v1 == 0) return std::nullopt;
    return static_cast<double>(*quota_v1) / static_cast<double>(*period_v1);
  }

  // Bytes up to its limit; cached pages that nobody used lately count as free.
  std::optional<uint64_t> MemoryRoom() const {
    auto room = Room("/memory.max", "/memory.current", "inactive_file");
    return room ? room
                : Room("/memory.limit_in_bytes", "/memory.usage_in_bytes", "total_inactive_file");
  }

 private:
  std::optional<uint64_t> Room(const char* limit_file, const char* usage_file,
                               const char* reclaimable) const {
    const auto limit = NumberIn(folder_ + limit_file);
    const auto usage = NumberIn(folder_ + usage_file);
    if (!limit || !usage || *limit >= kNoLimit) return std::nullopt;
    const uint64_t cached = std::min(*usage, FieldIn(folder_ + "/memory.stat", reclaimable));
    const uint64_t used = *usage - cached;
    return *limit > used ? *limit - used : 0;
  }

  std::string folder_;
};

// The folders of this process's groups and of all groups around them. A line of /proc/self/cgroup
// is "id:controllers:path"; inside a container the path may lead nowhere, and its root is what
// counts.
std::vector<ControlGroup> GroupsOf(const std::string& root) {
  const std::string mount = root + "/sys/fs/cgroup";
  std::vector<ControlGroup> groups;
  const std::string text = ReadFile(root + "/proc/self/cgroup").value_or("");
  for (const auto line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3) continue;
    std::string base = mount;
    if (!fields[1].empty()) absl::StrAppend(&base, "/", fields[1]);
    std::string path = fields[2] == "/" ? "" : fields[2];
    while (true) {
      groups.emplace_back(base + path);
      if (path.empty()) break;
      path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
    }
  }
  return groups;
}

std::vector<int> AffinityCores() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof(mask), &mask) == 0) {
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (CPU_ISSET(core, &mask)) cores.push_back(core);
    }
  }
  if (cores.empty()) cores.push_back(0);  // more CPUs than the mask holds
  return cores;
}

}  // namespace

uint32_t MachineLimits::usable_cores() const {
  const double whole = std::max(1.0, std::floor(cpu_quota));
  const auto count = static_cast<double>(cores.size());
  return static_cast<uint32_t>(std::max(1.0, std::min(whole, count)));
}

MachineLimits ReadMachineLimits(const std::string& root) {
  constexpr uint64_t kKibibyte = 1024;
  MachineLimits limits;
  limits.cores = AffinityCores();
  limits.memory_available = FieldIn(root + "/proc/meminfo", "MemAvailable:") * kKibibyte;
  limits.memory_source = "MemAvailable";
  for (const ControlGroup& group : GroupsOf(root)) {
    if (const auto quota = group.CpuQuota()) limits.cpu_quota = std::min(limits.cpu_quota, *quota);
    const auto room = group.MemoryRoom();
    if (!room || *room >= limits.memory_available) continue;
    limits.memory_available = *room;
    limits.memory_source = group.folder();
  }
  return limits;
}

ThreadPlan PlanThreads(uint32_t wanted, const MachineLimits& limits) {
  ThreadPlan plan;
  plan.threads = limits.usable_cores();
  if (wanted > 0) plan.threads = std::min(plan.threads, wanted);
  if (plan.threads == limits.cores.size()) plan.pinned_cores = limits.cores;
  return plan;
}

bool PinningWanted() {
  const char* value = std::getenv("ROLLCALL_PIN_THREADS");
  return value == nullptr || std::string_view(value) != "0";
}

bool BindThread(const std::vector<int>& cores) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  for (const int core : cores) CPU_SET(static_cast<size_t>(core), &mask);
  return sched_setaffinity(0, sizeof(mask), &mask) == 0;
}

}  // namespace rollcall
