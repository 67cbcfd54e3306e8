#include "common/base/machine_limits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "common/base/file.h"

namespace rollcall {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::IsEmpty;

// A machine made of files.
class MachineLimitsTest : public ::testing::Test {
 protected:
  MachineLimitsTest() {
    std::string pattern = ::testing::TempDir() + "/machine.XXXXXX";
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    Put("/proc/meminfo", "MemTotal:       9000 kB\nMemAvailable:   8000 kB\n");
  }
  ~MachineLimitsTest() override { std::filesystem::remove_all(root_); }

  void Put(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ + path;
    ASSERT_TRUE(MakeDirectories(file.parent_path().string()).ok());
    ASSERT_TRUE(WriteFileAtomically(file.string(), text).ok());
  }
  MachineLimits Read() const { return ReadMachineLimits(root_); }

  std::string root_;
};

TEST_F(MachineLimitsTest, WithoutControlGroupsOnlyTheMachineBinds) {
  const MachineLimits limits = Read();
  EXPECT_TRUE(std::isinf(limits.cpu_quota));
  EXPECT_EQ(limits.memory_available, 8000u * 1024);
  EXPECT_EQ(limits.memory_source, "MemAvailable");
  EXPECT_EQ(limits.usable_cores(), limits.cores.size());
}

TEST_F(MachineLimitsTest, TheTightestGroupOfVersionTwoBinds) {
  Put("/proc/self/cgroup", "0::/a/b\n");
  Put("/sys/fs/cgroup/a/cpu.max", "150000 100000\n");
  Put("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  Put("/sys/fs/cgroup/a/memory.max", "4000000\n");
  Put("/sys/fs/cgroup/a/memory.current", "3500000\n");
  Put("/sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 500000\n");
  Put("/sys/fs/cgroup/a/b/memory.max", "max\n");
  Put("/sys/fs/cgroup/a/b/memory.current", "10\n");
  const MachineLimits limits = Read();
  EXPECT_EQ(limits.cpu_quota, 1.5);
  EXPECT_EQ(limits.usable_cores(), 1u);
  EXPECT_EQ(limits.memory_available, 1000000u);
  EXPECT_THAT(limits.memory_source, EndsWith("/sys/fs/cgroup/a"));
}

TEST_F(MachineLimitsTest, VersionOneIsReadToo) {
  Put("/proc/self/cgroup", "4:memory:/gone\n1:cpu:/box\n0::/\n");
  Put("/sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "50000\n");
  Put("/sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000\n");
  Put("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  Put("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  // The group's own folder is not visible here, its root is.
  Put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "3000000\n");
  Put("/sys/fs/cgroup/memory/memory.usage_in_bytes", "1000000\n");
  const MachineLimits limits = Read();
  EXPECT_EQ(limits.cpu_quota, 0.5);
  EXPECT_EQ(limits.usable_cores(), 1u);
  EXPECT_EQ(limits.memory_available, 2000000u);
}

TEST_F(MachineLimitsTest, AFullGroupHasNoRoomAndAnEndlessOneBindsNobody) {
  Put("/proc/self/cgroup", "4:memory:/full\n");
  Put("/sys/fs/cgroup/memory/full/memory.limit_in_bytes", "1000\n");
  Put("/sys/fs/cgroup/memory/full/memory.usage_in_bytes", "1500\n");
  Put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  Put("/sys/fs/cgroup/memory/memory.usage_in_bytes", "1500\n");
  EXPECT_EQ(Read().memory_available, 0u);
}

TEST(ThreadPlanTest, NeverMoreThreadsThanCanRun) {
  MachineLimits limits{.cores = {2, 3, 6, 7}};
  EXPECT_EQ(PlanThreads(0, limits).threads, 4u);
  EXPECT_THAT(PlanThreads(0, limits).pinned_cores, ElementsAre(2, 3, 6, 7));
  EXPECT_EQ(PlanThreads(9, limits).threads, 4u);
  // Half of the mask: which half is the kernel's business.
  EXPECT_EQ(PlanThreads(2, limits).threads, 2u);
  EXPECT_THAT(PlanThreads(2, limits).pinned_cores, IsEmpty());
  // A quota below the mask means that others share these cores.
  limits.cpu_quota = 2.7;
  EXPECT_EQ(PlanThreads(0, limits).threads, 2u);
  EXPECT_THAT(PlanThreads(0, limits).pinned_cores, IsEmpty());
}

TEST(BindThreadTest, BindsTheCallingThreadAlone) {
  const std::vector<int> before = ReadMachineLimits().cores;
  std::vector<int> inside;
  std::thread([&] {
    EXPECT_TRUE(BindThread({before.back()}));
    inside = ReadMachineLimits().cores;
  }).join();
  EXPECT_THAT(inside, ElementsAre(before.back()));
  EXPECT_EQ(ReadMachineLimits().cores, before);
  std::thread([] { EXPECT_FALSE(BindThread({})); }).join();
}

}  // namespace
}  // namespace rollcall
