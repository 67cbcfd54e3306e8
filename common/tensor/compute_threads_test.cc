#include "common/tensor/compute_threads.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>

#include "common/base/machine_limits.h"

namespace rollcall::tensor {
namespace {

TEST(ComputeThreadsTest, NeverMoreThanTheMaskHolds) {
  const MachineLimits limits = ReadMachineLimits();
  std::thread([&] {
    EXPECT_EQ(StartComputeThreads(10000, ModelThread::kMain), limits.usable_cores());
    EXPECT_EQ(at::get_num_threads(), static_cast<int>(limits.usable_cores()));
    // It may start threads that go anywhere.
    EXPECT_EQ(ReadMachineLimits().cores, limits.cores);
  }).join();
}

TEST(ComputeThreadsTest, AMaskOfOneCoreGivesOneBoundThread) {
  const int core = ReadMachineLimits().cores.back();
  std::thread([core] {
    ASSERT_TRUE(BindThread({core}));
    EXPECT_EQ(StartComputeThreads(0, ModelThread::kEngine), 1u);
    EXPECT_EQ(at::get_num_threads(), 1);
    EXPECT_EQ(ReadMachineLimits().cores, std::vector<int>{core});
  }).join();
}

TEST(ComputeThreadsTest, AnEngineThreadIsBoundWhereTheThreadsTakeTheWholeMask) {
  const MachineLimits limits = ReadMachineLimits();
  if (limits.usable_cores() != limits.cores.size()) {
    GTEST_SKIP() << "a CPU quota below the mask: nothing is bound here";
  }
  ASSERT_EQ(setenv("ROLLCALL_PIN_THREADS", "1", 1), 0);
  std::thread([&limits] {
    StartComputeThreads(0, ModelThread::kEngine);
    EXPECT_EQ(ReadMachineLimits().cores, std::vector<int>{limits.cores.front()});
  }).join();
  ASSERT_EQ(setenv("ROLLCALL_PIN_THREADS", "0", 1), 0);
  std::thread([&limits] {
    StartComputeThreads(0, ModelThread::kEngine);
    EXPECT_EQ(ReadMachineLimits().cores, limits.cores);
  }).join();
}

}  // namespace
}  // namespace rollcall::tensor
