#include "common/tensor/compute_threads.h"

#include <ATen/Parallel.h>

#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "common/base/logging.h"
#include "common/base/machine_limits.h"
#include "common/tensor/compute_team.h"

namespace rollcall::tensor {

uint32_t StartComputeThreads(uint32_t wanted, ModelThread thread) {
  const MachineLimits limits = ReadMachineLimits();
  const ThreadPlan plan = PlanThreads(wanted, limits);
  const auto threads = static_cast<int>(plan.threads);
  // Both the count and the threads themselves belong to the calling thread.
  at::set_num_threads(threads);
  const bool pinned = !plan.pinned_cores.empty() && PinningWanted();
  // Before this thread is bound: what it makes later inherits its core.
  StartTeam(plan.threads, pinned ? plan.pinned_cores : std::vector<int>());
  if (pinned) {
    at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
      const auto index = static_cast<size_t>(at::get_thread_num());
      if (index == 0 && thread == ModelThread::kMain) return;
      if (index < plan.pinned_cores.size()) BindThread({plan.pinned_cores[index]});
    });
  }
  LogInfo("compute threads", {{"threads", plan.threads},
                              {"asked_for", wanted},
                              {"cores", absl::StrJoin(limits.cores, ",")},
                              {"cpu_quota", limits.cpu_quota},
                              {"pinned", pinned}});
  return plan.threads;
}

}  // namespace rollcall::tensor
