#include "common/tensor/compute_team.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

namespace rollcall::tensor {
namespace {

// Every item of many short jobs is done once, and before the job returns, by however many threads.
TEST(ComputeTeamTest, EveryItemIsDoneOnceBeforeTheJobReturns) {
  std::thread([] {
    for (const int threads : {2, 5, 1, 3}) {
      at::set_num_threads(threads);
      for (int job = 0; job < 3000; ++job) {
        const int items = 1 + job % 7;
        std::vector<int> done(static_cast<size_t>(items), 0);
        std::atomic<int> next{0};
        RunOnTeam([&] {
          for (int i = next++; i < items; i = next++) ++done[static_cast<size_t>(i)];
        });
        ASSERT_EQ(done, std::vector<int>(static_cast<size_t>(items), 1)) << threads << " " << job;
      }
    }
  }).join();
}

// Two calls meet, which one thread cannot do alone.
TEST(ComputeTeamTest, OtherThreadsTakePart) {
  std::thread([] {
    at::set_num_threads(2);
    std::atomic<int> arrived{0};
    RunOnTeam([&] {
      ++arrived;
      while (arrived < 2) std::this_thread::yield();
      EXPECT_TRUE(InTeam());
    });
    EXPECT_EQ(arrived, 2);
    EXPECT_FALSE(InTeam());
  }).join();
}

TEST(ComputeTeamTest, AnExceptionOfAnyCallIsTheCallers) {
  std::thread([] {
    at::set_num_threads(3);
    for (int job = 0; job < 100; ++job) {
      std::atomic<int> next{0};
      EXPECT_THROW(RunOnTeam([&] {
                     if (next++ == 0) throw std::runtime_error("first");
                   }),
                   std::runtime_error);
      int calls = 0;
      std::atomic<bool> taken{false};
      RunOnTeam([&] {
        if (!taken.exchange(true)) ++calls;
      });
      EXPECT_EQ(calls, 1);
    }
  }).join();
}

}  // namespace
}  // namespace rollcall::tensor
