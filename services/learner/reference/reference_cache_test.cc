#include "services/learner/reference/reference_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace rollcall::learner {
namespace {

namespace fs = std::filesystem;

class ReferenceCacheTest : public ::testing::Test {
 protected:
  ReferenceCacheTest() { EXPECT_NE(mkdtemp(folder_.data()), nullptr); }
  ~ReferenceCacheTest() override { fs::remove_all(folder_); }

  static v1::ModelDescription Model(char weights = 'w') {
    v1::ModelDescription model;
    model.set_manifest_hash(std::string(32, weights));
    return model;
  }

  std::unique_ptr<ReferenceCache> Open(const v1::ModelDescription& model = Model(),
                                       uint32_t writer = 0) const {
    auto cache = ReferenceCache::Open(folder_, model, writer);
    EXPECT_TRUE(cache.ok()) << cache.status();
    return *std::move(cache);
  }

  // Five tokens, the last three scored.
  static TrainSequence Sequence(uint32_t last) {
    TrainSequence sequence;
    sequence.token_ids = {1, 2, 3, 4, last};
    sequence.loss_mask = {0, 0, 1, 0, 1};
    return sequence;
  }

  std::string File() const { return fs::directory_iterator(folder_)->path().string(); }

  void Fill(uint32_t sequences) const {
    const auto cache = Open();
    for (uint32_t i = 0; i < sequences; ++i) {
      ASSERT_TRUE(cache->Add(Sequence(i), std::vector<float>{-1, -2, -0.5F * i}).ok());
    }
  }

  // Changes one byte of the record of that number, counted from 0; all are of one size.
  void Damage(uint64_t record, uint64_t records) const {
    const uint64_t size = fs::file_size(File()) / records;
    std::fstream file(File(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(record * size + size - 2));
    file.put('\x7f');
  }

  std::string folder_ = ::testing::TempDir() + "/reference_cache.XXXXXX";
};

TEST_F(ReferenceCacheTest, ALaterRunFindsWhatAnEarlierOneAdded) {
  Fill(3);
  const auto cache = Open();
  EXPECT_EQ(cache->entries(), 3u);
  EXPECT_EQ(cache->Find(Sequence(2)), (std::vector<float>{-1, -2, -1}));
  EXPECT_FALSE(cache->Find(Sequence(3)).has_value());
  ASSERT_TRUE(cache->Add(Sequence(3), std::vector<float>{-3, -4, -5}).ok());
  EXPECT_EQ(cache->Find(Sequence(3)), (std::vector<float>{-3, -4, -5}));
  EXPECT_EQ(cache->Find(Sequence(0)), (std::vector<float>{-1, -2, 0}));
}

TEST_F(ReferenceCacheTest, AnEntryIsOfItsTokensAndOfWhereItsScoredPartBegins) {
  Fill(2);
  TrainSequence other = Sequence(1);
  other.loss_mask = {0, 1, 1, 1, 1};
  EXPECT_FALSE(Open()->Find(other).has_value());
  other = Sequence(1);
  other.token_ids[0] = 7;
  EXPECT_FALSE(Open()->Find(other).has_value());
  other = Sequence(1);
  other.loss_mask = {0, 0, 1, 1, 1};  // the same values, of which one more is used
  EXPECT_TRUE(Open()->Find(other).has_value());
}

TEST_F(ReferenceCacheTest, OtherWeightsAndOtherNumericsHaveTheirOwnFiles) {
  Fill(2);
  EXPECT_EQ(Open(Model('x'))->entries(), 0u);
  v1::ModelDescription numerics = Model();
  numerics.mutable_numerics()->set_kernel_revision(99);
  EXPECT_EQ(Open(numerics)->entries(), 0u);
  EXPECT_EQ(Open()->entries(), 2u);
}

TEST_F(ReferenceCacheTest, DamageIsFoundAndWhatLiesBehindIsComputedAgain) {
  Fill(4);
  Damage(1, 4);
  auto cache = Open();
  EXPECT_EQ(cache->entries(), 1u);
  EXPECT_TRUE(cache->Find(Sequence(0)).has_value());
  EXPECT_FALSE(cache->Find(Sequence(1)).has_value());
  ASSERT_TRUE(cache->Add(Sequence(1), std::vector<float>{-1, -2, -0.5F}).ok());
  cache.reset();
  EXPECT_EQ(Open()->entries(), 2u);
}

TEST_F(ReferenceCacheTest, ATornTailIsCut) {
  Fill(3);
  fs::resize_file(File(), fs::file_size(File()) - 5);
  EXPECT_EQ(Open()->entries(), 2u);
}

TEST_F(ReferenceCacheTest, AnEntryThatIsDamagedMeanwhileIsNotFound) {
  Fill(3);
  const auto cache = Open();
  Damage(1, 3);
  EXPECT_TRUE(cache->Find(Sequence(0)).has_value());
  EXPECT_FALSE(cache->Find(Sequence(1)).has_value());
  EXPECT_TRUE(cache->Find(Sequence(2)).has_value());
}

TEST_F(ReferenceCacheTest, ASecondRunReadsAndDoesNotWrite) {
  Fill(2);
  const auto first = Open();
  const auto second = Open();
  EXPECT_TRUE(second->Find(Sequence(1)).has_value());
  ASSERT_TRUE(second->Add(Sequence(5), std::vector<float>{-1, -1, -1}).ok());
  EXPECT_FALSE(second->Find(Sequence(5)).has_value());
  // Another rank of the same run writes its own file and reads both.
  const auto rank = Open(Model(), 1);
  EXPECT_EQ(rank->entries(), 2u);
  ASSERT_TRUE(rank->Add(Sequence(6), std::vector<float>{-1, -1, -1}).ok());
  EXPECT_EQ(Open(Model(), 2)->entries(), 3u);
}

TEST_F(ReferenceCacheTest, AFolderThatCannotBeMadeIsAnError) {
  std::ofstream(folder_ + "/file") << "x";
  EXPECT_FALSE(ReferenceCache::Open(folder_ + "/file/cache", Model(), 0).ok());
}

}  // namespace
}  // namespace rollcall::learner
