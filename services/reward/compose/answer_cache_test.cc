#include "services/reward/compose/answer_cache.h"

#include <gtest/gtest.h>

#include <string>

namespace rollcall::reward {
namespace {

v1::ScoreResponse Answer(uint64_t group_id) {
  v1::ScoreResponse response;
  response.add_groups()->set_group_id(group_id);
  return response;
}

TEST(AnswerCacheTest, AnswersAKeyOnlyForItsRequest) {
  AnswerCache cache(1000);
  cache.Store("k", "print", Answer(1));
  EXPECT_EQ(cache.Find("k", "print")->groups(0).group_id(), 1u);
  EXPECT_FALSE(cache.Find("k", "other").has_value());
  EXPECT_FALSE(cache.Find("l", "print").has_value());
  cache.Store("k", "other", Answer(2));
  EXPECT_FALSE(cache.Find("k", "print").has_value());
  EXPECT_EQ(cache.Find("k", "other")->groups(0).group_id(), 2u);
}

TEST(AnswerCacheTest, DropsTheLeastRecentlyUsedToStayWithinItsBytes) {
  // Each entry: key 1, fingerprint 1, answer 4 bytes.
  AnswerCache cache(18);
  for (const char* key : {"a", "b", "c"}) cache.Store(key, "f", Answer(1));
  EXPECT_EQ(cache.bytes(), 18u);
  ASSERT_TRUE(cache.Find("a", "f").has_value());
  cache.Store("d", "f", Answer(1));
  EXPECT_EQ(cache.bytes(), 18u);
  EXPECT_FALSE(cache.Find("b", "f").has_value());
  EXPECT_TRUE(cache.Find("a", "f").has_value());
  cache.Store("e", std::string(100, 'f'), Answer(1));
  EXPECT_FALSE(cache.Find("e", std::string(100, 'f')).has_value());
  EXPECT_EQ(cache.bytes(), 18u);
}

TEST(AnswerCacheTest, ZeroBytesKeepNothing) {
  AnswerCache cache(0);
  cache.Store("k", "f", Answer(1));
  EXPECT_FALSE(cache.Find("k", "f").has_value());
}

}  // namespace
}  // namespace rollcall::reward
