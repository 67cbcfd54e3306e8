#include "services/learner/trainer/checkpoint_store.h"

#include <ATen/core/Tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "common/checkpoint/scratch_folder.h"
#include "services/learner/trainer/tiny_runs.h"

namespace rollcall::learner {
namespace {

using checkpoint::ScratchFolder;
using testing::CopyParameters;
using testing::CopyTask;
using ::testing::ElementsAre;
using testing::ExpectSameBits;
using ::testing::IsEmpty;
using testing::NewDecoder;
using testing::NewTrainer;
using testing::TinyModel;
using testing::TinyRun;

std::unique_ptr<Trainer> Fresh(at::ScalarType dtype = at::kFloat) {
  return NewTrainer(TinyRun(v1::STAGE_SFT), NewDecoder(TinyModel(), 1, dtype));
}

void Train(Trainer& trainer, uint64_t last_step) {
  while (trainer.step() < last_step) {
    const auto report = trainer.TrainStep(CopyTask(trainer.step() + 1, 8));
    ASSERT_TRUE(report.ok()) << report.status();
  }
}

void Damage(const std::string& path) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  ASSERT_TRUE(file) << path;
  file.seekp(-2, std::ios::end);
  file.put('\x55');
}

TEST(CheckpointStore, AResumedRunContinuesBitForBit) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const ScratchFolder scratch;
    CheckpointStore store(scratch / "checkpoints", 3);
    const auto straight = Fresh(dtype);
    Train(*straight, 3);
    v1::LearnerCheckpoint record;
    record.set_next_group_id(77);
    const auto folder = store.Save(record, *straight);
    ASSERT_TRUE(folder.ok()) << folder.status();
    Train(*straight, 6);

    const auto resumed = Fresh(dtype);
    const auto loaded = store.LoadNewest(*resumed);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    ASSERT_TRUE(loaded->has_value());
    EXPECT_EQ((*loaded)->folder, *folder);
    EXPECT_EQ((*loaded)->record.next_group_id(), 77u);
    EXPECT_EQ((*loaded)->record.format(), CheckpointStore::kFormat);
    EXPECT_EQ((*loaded)->record.trained_tokens(), 3u * 80);
    EXPECT_EQ((*loaded)->record.version().manifest_hash().size(), 32u);
    EXPECT_EQ(resumed->step(), 3u);
    Train(*resumed, 6);
    ExpectSameBits(CopyParameters(*resumed), CopyParameters(*straight));
    ExpectSameBits(testing::FirstMoments(*resumed), testing::FirstMoments(*straight));
  }
}

TEST(CheckpointStore, AnEmptyRunHasNone) {
  const ScratchFolder scratch;
  const auto trainer = Fresh();
  const auto loaded = CheckpointStore(scratch / "none", 3).LoadNewest(*trainer);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_FALSE(loaded->has_value());
}

TEST(CheckpointStore, KeepsTheNewest) {
  const ScratchFolder scratch;
  CheckpointStore store(scratch.path(), 2);
  const auto trainer = Fresh();
  for (uint64_t step = 0; step <= 3; ++step) {
    Train(*trainer, step);
    ASSERT_TRUE(store.Save({}, *trainer).ok());
  }
  ASSERT_TRUE(store.Save({}, *trainer).ok());  // the same step again
  EXPECT_THAT(store.Steps(), ElementsAre(2, 3));
  size_t entries = 0;
  for (const auto& entry : std::filesystem::directory_iterator(scratch.path())) {
    EXPECT_EQ(entry.path().filename().string().substr(0, 5), "step-");
    ++entries;
  }
  EXPECT_EQ(entries, 2u);
}

TEST(CheckpointStore, DamagedOnesArePassedOver) {
  const std::string kParts[] = {"/checkpoint.pb", "/optimizer.safetensors",
                                "/model/model.safetensors"};
  for (const std::string& part : kParts) {
    const ScratchFolder scratch;
    CheckpointStore store(scratch.path(), 5);
    const auto trainer = Fresh();
    Train(*trainer, 1);
    ASSERT_TRUE(store.Save({}, *trainer).ok());
    const std::vector<at::Tensor> whole = CopyParameters(*trainer);
    Train(*trainer, 2);
    ASSERT_TRUE(store.Save({}, *trainer).ok());
    // A flipped byte in the tensors; a record or a file that is gone.
    if (part == kParts[0]) {
      std::filesystem::resize_file(store.FolderOf(2) + part, 0);
    } else {
      Damage(store.FolderOf(2) + part);
    }
    const auto resumed = Fresh();
    const auto loaded = store.LoadNewest(*resumed);
    ASSERT_TRUE(loaded.ok()) << part << ": " << loaded.status();
    EXPECT_EQ((*loaded)->folder, store.FolderOf(1)) << part;
    EXPECT_EQ(resumed->step(), 1u);
    ExpectSameBits(CopyParameters(*resumed), whole);

    std::filesystem::remove_all(store.FolderOf(1) + "/model");
    EXPECT_EQ(store.LoadNewest(*resumed).status().code(), absl::StatusCode::kDataLoss) << part;
  }
}

TEST(CheckpointStore, AnInterruptedSaveLeavesNothingThatLoads) {
  const ScratchFolder scratch;
  CheckpointStore store(scratch.path(), 5);
  const auto trainer = Fresh();
  // A folder in the way of the temporary one cannot be made: the parent is a file.
  std::ofstream(scratch / "file") << "x";
  EXPECT_FALSE(CheckpointStore(scratch / "file", 5).Save({}, *trainer).ok());
  EXPECT_THAT(store.Steps(), IsEmpty());
  // What a crash leaves: a hidden partial folder.
  std::filesystem::create_directories(scratch / ".step-00000007.partial.abcdef");
  std::filesystem::create_directories(scratch / "step-7x");
  EXPECT_THAT(store.Steps(), IsEmpty());
}

TEST(CheckpointStore, ExportedModelLoadsAgain) {
  const ScratchFolder scratch;
  const auto trainer = Fresh();
  Train(*trainer, 1);
  ASSERT_TRUE(trainer->ExportModel(scratch / "model").ok());
  EXPECT_TRUE(std::filesystem::exists(scratch / "model/config.json"));
  EXPECT_TRUE(std::filesystem::exists(scratch / "model/model.safetensors"));
}

}  // namespace
}  // namespace rollcall::learner
