#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace rollcall {

// What this process may use of the machine, as of when it was read.
struct MachineLimits {
  // CPUs of the affinity mask (cpusets included), ascending; at least one.
  std::vector<int> cores;
  // Cores' worth of time by the tightest CPU quota of its control groups; infinity: none.
  double cpu_quota = std::numeric_limits<double>::infinity();
  // Bytes that can still be taken: MemAvailable, or less where a control group has less room.
  uint64_t memory_available = 0;
  // Which of them it was: "MemAvailable" or the control group's folder.
  std::string memory_source;

  // Threads that can all run at once; at least 1.
  uint32_t usable_cores() const;
};

// Reads control groups of version 1 and 2, also a process's own groups' ancestors, since the
// tightest binds. What cannot be read binds nobody: a machine without control groups has none.
// `root` stands before /proc and /sys; tests give a folder of their own.
MachineLimits ReadMachineLimits(const std::string& root = "");

// Compute threads of one service.
struct ThreadPlan {
  uint32_t threads = 1;
  // One for each thread, where the threads take all cores of the mask; empty: the kernel places
  // them, as it does where others may share the mask.
  std::vector<int> pinned_cores;
};

// `wanted` threads, 0: as many as can run at once. Never more than that. Pure.
ThreadPlan PlanThreads(uint32_t wanted, const MachineLimits& limits);

// False where ROLLCALL_PIN_THREADS=0 says that the kernel shall place all threads: on cores that
// other work uses too, a thread that may not move waits for whoever has its core.
bool PinningWanted();

// Binds the calling thread, and the threads it starts from now on, to these CPUs. False: refused.
bool BindThread(const std::vector<int>& cores);

}  // namespace rollcall
