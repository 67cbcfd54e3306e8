#include "services/generator/scheduler/prefix_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rollcall::generator {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Tokens = std::vector<uint32_t>;

class PrefixCacheTest : public ::testing::Test {
 protected:
  // A finished sequence: its full blocks are known, nobody else holds them.
  void Add(const Tokens& tokens) {
    PrefixCache::NodeId node = PrefixCache::kRoot;
    std::vector<uint32_t> held;
    for (size_t begin = 0; begin + 2 <= tokens.size(); begin += 2) {
      held.push_back(pool_.Allocate());
      node = cache_.Insert(node, std::span(tokens).subspan(begin, 2), held.back());
    }
    for (const uint32_t block : held) pool_.Release(block);
  }

  BlockPool pool_{8};
  PrefixCache cache_{&pool_, 2};
};

TEST_F(PrefixCacheTest, FindsTheLongestBeginningInWholeBlocks) {
  Add({1, 2, 3, 4, 5, 6});
  EXPECT_EQ(cache_.Find(Tokens{1, 2, 3, 4, 5, 6, 7}).blocks.size(), 3u);
  EXPECT_EQ(cache_.Find(Tokens{1, 2, 3, 4, 5}).blocks.size(), 2u);
  EXPECT_EQ(cache_.Find(Tokens{1, 2, 3, 9, 5, 6}).blocks.size(), 1u);
  EXPECT_THAT(cache_.Find(Tokens{3, 4}).blocks, IsEmpty());
  EXPECT_THAT(cache_.Find(Tokens{1}).blocks, IsEmpty());
}

TEST_F(PrefixCacheTest, ACommonBeginningIsHeldOnce) {
  Add({1, 2, 3, 4});
  Add({1, 2, 5, 6});
  EXPECT_EQ(cache_.size(), 3u);
  EXPECT_EQ(pool_.num_free(), 5u);
  EXPECT_EQ(pool_.num_idle(), 3u);
  EXPECT_EQ(cache_.Find(Tokens{1, 2, 3, 4}).blocks[0], cache_.Find(Tokens{1, 2, 5, 6}).blocks[0]);
}

TEST_F(PrefixCacheTest, EvictsTheLeastRecentlyUsedLeafFirst) {
  Add({1, 2, 3, 4});
  Add({5, 6});
  cache_.Find(Tokens{1, 2, 3, 4});
  ASSERT_TRUE(cache_.Evict());
  EXPECT_THAT(cache_.Find(Tokens{5, 6}).blocks, IsEmpty());
  ASSERT_TRUE(cache_.Evict());
  EXPECT_EQ(cache_.Find(Tokens{1, 2, 3, 4}).blocks.size(), 1u);
  ASSERT_TRUE(cache_.Evict());
  EXPECT_FALSE(cache_.Evict());
  EXPECT_EQ(pool_.num_free(), 8u);
}

TEST_F(PrefixCacheTest, KeepsWhatIsInUse) {
  Add({1, 2, 3, 4});
  const uint32_t first = cache_.Find(Tokens{1, 2}).blocks[0];
  pool_.Retain(first);
  EXPECT_EQ(pool_.num_idle(), 1u);
  EXPECT_TRUE(cache_.Evict());
  EXPECT_FALSE(cache_.Evict());
  EXPECT_THAT(cache_.Find(Tokens{1, 2}).blocks, ElementsAre(first));
  pool_.Release(first);
  EXPECT_TRUE(cache_.Evict());
}

TEST_F(PrefixCacheTest, ClearForgetsEverythingAndFreesWhatIsIdle) {
  Add({1, 2, 3, 4});
  const uint32_t first = cache_.Find(Tokens{1, 2}).blocks[0];
  pool_.Retain(first);
  cache_.Clear();
  EXPECT_THAT(cache_.Find(Tokens{1, 2}).blocks, IsEmpty());
  EXPECT_EQ(pool_.num_free(), 7u);
  pool_.Release(first);
  EXPECT_EQ(pool_.num_free(), 8u);
}

}  // namespace
}  // namespace rollcall::generator
