#include "services/generator/scheduler/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rollcall::generator {
namespace {

using ::testing::HasSubstr;

SchedulerOptions Options() {
  return {.num_blocks = 100,
          .block_tokens = 4,
          .max_running_samples = 8,
          .max_waiting_samples = 32,
          .max_step_tokens = 16};
}

GroupSpec Group(uint32_t prompt, uint32_t samples, uint32_t max_new) {
  GroupSpec spec{.prompt_tokens = prompt, .samples = {}};
  spec.samples.resize(samples, {.prefix_tokens = 0, .max_total_tokens = prompt + max_new});
  return spec;
}

TEST(BlockPoolTest, CountsHoldersAndReusesFreedBlocks) {
  BlockPool pool(2);
  const uint32_t a = pool.Allocate();
  const uint32_t b = pool.Allocate();
  EXPECT_NE(a, b);
  EXPECT_EQ(pool.num_free(), 0u);
  pool.Retain(a);
  pool.Release(a);
  EXPECT_EQ(pool.references(a), 1u);
  EXPECT_EQ(pool.num_free(), 0u);
  pool.Release(a);
  EXPECT_EQ(pool.num_free(), 1u);
  EXPECT_EQ(pool.Allocate(), a);
}

TEST(SchedulerTest, PromptIsComputedOnceAndItsFullBlocksAreShared) {
  Scheduler scheduler(Options());
  ASSERT_TRUE(scheduler.Submit(Group(10, 4, 5)).ok());
  StepPlan plan = scheduler.Plan();
  ASSERT_EQ(plan.chunks.size(), 1u);
  EXPECT_EQ(plan.rows, 10u);
  // All four draw from the prompt's last row.
  ASSERT_EQ(plan.draws.size(), 4u);
  for (const StepDraw& draw : plan.draws) {
    EXPECT_EQ(draw.row, 9u);
    EXPECT_EQ(draw.position, 10u);
  }
  EXPECT_EQ(scheduler.pool().num_free(), 97u);
  scheduler.Complete(plan, {});

  // Position 10 lies in the third block, of which two tokens are the prompt's: each sample but the
  // last gets a copy.
  plan = scheduler.Plan();
  EXPECT_EQ(plan.rows, 4u);
  EXPECT_EQ(plan.decode_rows, 4u);
  EXPECT_EQ(plan.copies.size(), 3u);
  EXPECT_EQ(scheduler.pool().num_free(), 94u);
  std::set<uint32_t> last;
  for (const StepChunk& chunk : plan.chunks) {
    const auto blocks = plan.blocks(chunk);
    ASSERT_EQ(blocks.size(), 3u);
    EXPECT_EQ(blocks[0], plan.blocks(plan.chunks[0])[0]);
    EXPECT_EQ(blocks[1], plan.blocks(plan.chunks[0])[1]);
    last.insert(blocks[2]);
  }
  EXPECT_EQ(last.size(), 4u);
}

TEST(SchedulerTest, LongPromptIsPrefilledInChunksBesideDecodes) {
  Scheduler scheduler(Options());
  const auto first = scheduler.Submit(Group(2, 1, 50));
  StepPlan plan = scheduler.Plan();
  scheduler.Complete(plan, {});
  const auto second = scheduler.Submit(Group(40, 2, 5));
  ASSERT_TRUE(first.ok() && second.ok());
  for (const uint32_t chunk : {15u, 15u, 10u}) {
    plan = scheduler.Plan();
    ASSERT_EQ(plan.chunks.size(), 2u);
    EXPECT_EQ(plan.chunks[0].sample, first->first_sample);
    EXPECT_EQ(plan.chunks[0].count, 1u);
    EXPECT_EQ(plan.chunks[1].sample, second->first_sample);
    EXPECT_EQ(plan.chunks[1].count, chunk);
    EXPECT_EQ(plan.draws.size(), chunk == 10u ? 3u : 1u);
    scheduler.Complete(plan, {});
  }
  EXPECT_EQ(scheduler.num_running(), 3u);
}

TEST(SchedulerTest, FollowersKeepTheirSlotsWhileTheLeaderPrefills) {
  SchedulerOptions options = Options();
  options.max_running_samples = 3;
  Scheduler scheduler(options);
  const auto group = scheduler.Submit(Group(20, 3, 5));
  const auto later = scheduler.Submit(Group(1, 1, 5));
  ASSERT_TRUE(group.ok() && later.ok());
  StepPlan plan = scheduler.Plan();
  EXPECT_EQ(plan.chunks.size(), 1u);
  scheduler.Complete(plan, {});
  plan = scheduler.Plan();
  EXPECT_EQ(plan.draws.size(), 3u);
  scheduler.Complete(plan, {});
  EXPECT_EQ(scheduler.num_running(), 3u);
  EXPECT_EQ(scheduler.num_waiting(), 1u);
}

TEST(SchedulerTest, RefusesWhatCanNeverFit) {
  SchedulerOptions options = Options();
  options.num_blocks = 5;  // 20 tokens
  Scheduler scheduler(options);
  EXPECT_TRUE(scheduler.Submit(Group(10, 1, 11)).ok());  // the last token is never stored
  const auto refused = scheduler.Submit(Group(10, 1, 12));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.status().message(), HasSubstr("sampling.max_tokens"));
}

TEST(SchedulerTest, BoundsTheQueue) {
  Scheduler scheduler(Options());
  EXPECT_EQ(scheduler.Submit(Group(1, 33, 1)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(scheduler.Submit(Group(1, 30, 2)).ok());
  EXPECT_TRUE(scheduler.Submit(Group(1, 2, 2)).ok());
  EXPECT_EQ(scheduler.Submit(Group(1, 1, 2)).status().code(), absl::StatusCode::kResourceExhausted);
  // Eight of them run now.
  scheduler.Complete(scheduler.Plan(), {});
  EXPECT_TRUE(scheduler.Submit(Group(1, 8, 2)).ok());
}

TEST(SchedulerTest, PreemptsTheYoungestWhenBlocksRunOut) {
  SchedulerOptions options = Options();
  options.num_blocks = 5;
  Scheduler scheduler(options);
  const auto older = scheduler.Submit(Group(4, 1, 12));
  const auto younger = scheduler.Submit(Group(4, 1, 12));
  ASSERT_TRUE(older.ok() && younger.ok());
  std::vector<SampleId> preempted;
  std::map<SampleId, uint32_t> made;
  while (!scheduler.idle()) {
    const StepPlan plan = scheduler.Plan();
    preempted.insert(preempted.end(), plan.preempted.begin(), plan.preempted.end());
    std::vector<SampleId> finished;
    for (const StepDraw& draw : plan.draws) {
      if (++made[draw.sample] == 12) finished.push_back(draw.sample);
    }
    scheduler.Complete(plan, finished);
    if (!finished.empty() && finished[0] == older->first_sample) {
      EXPECT_LT(made[younger->first_sample], 12u);
    }
  }
  ASSERT_EQ(preempted.size(), 1u);
  EXPECT_EQ(preempted[0], younger->first_sample);
  EXPECT_EQ(scheduler.pool().num_free(), 5u);
}

TEST(SchedulerTest, CancelFreesBlocksAndSlotsAtOnce) {
  Scheduler scheduler(Options());
  const auto group = scheduler.Submit(Group(10, 12, 5));
  ASSERT_TRUE(group.ok());
  scheduler.Complete(scheduler.Plan(), {});
  EXPECT_EQ(scheduler.num_running(), 8u);
  scheduler.Cancel(group->group);
  EXPECT_TRUE(scheduler.idle());
  EXPECT_EQ(scheduler.num_running() + scheduler.num_waiting(), 0u);
  EXPECT_EQ(scheduler.pool().num_free(), 100u);
  scheduler.Cancel(group->group);
  EXPECT_TRUE(scheduler.Plan().empty());
}

TEST(SchedulerTest, RecomputeAllStartsEveryTokenAgain) {
  Scheduler scheduler(Options());
  ASSERT_TRUE(scheduler.Submit(Group(6, 2, 20)).ok());
  for (int step = 0; step < 4; ++step) scheduler.Complete(scheduler.Plan(), {});
  scheduler.RecomputeAll();
  EXPECT_EQ(scheduler.pool().num_free(), 100u);
  // The first sample has 6 + 4 tokens; it computes them all and shares the prompt's six with the
  // second.
  StepPlan plan = scheduler.Plan();
  ASSERT_EQ(plan.chunks.size(), 1u);
  EXPECT_EQ(plan.chunks[0].begin, 0u);
  EXPECT_EQ(plan.chunks[0].count, 10u);
  ASSERT_EQ(plan.draws.size(), 1u);
  EXPECT_EQ(plan.draws[0].position, 10u);
  scheduler.Complete(plan, {});
  plan = scheduler.Plan();
  ASSERT_EQ(plan.chunks.size(), 2u);
  EXPECT_EQ(plan.chunks[1].begin, 6u);
  EXPECT_EQ(plan.chunks[1].count, 4u);
}

}  // namespace
}  // namespace rollcall::generator
