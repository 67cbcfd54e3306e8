#include "common/checkpoint/folder_transaction.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <set>
#include <string>

#include "common/base/file.h"
#include "common/checkpoint/scratch_folder.h"

namespace rollcall::checkpoint {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::set<std::string> Names(const std::string& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    names.insert(entry.path().filename().string());
  return names;
}

void Write(const std::string& folder, const std::string& name, const std::string& text) {
  ASSERT_TRUE(MakeDirectories(folder).ok());
  ASSERT_TRUE(WriteFileAtomically(folder + "/" + name, text).ok());
}

// A child that begins a transaction, writes half of it and is killed.
void DieInTheMiddle(const std::string& target) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto transaction = FolderTransaction::Begin(target);
    if (transaction.ok() && WriteFileAtomically((*transaction)->path() + "/half", "half").ok()) {
      raise(SIGKILL);
    }
    _exit(1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
}

TEST(FolderTransactionTest, AppearsOnlyOnCommit) {
  const ScratchFolder scratch;
  const std::string target = scratch / "deep/er/model";
  auto transaction = FolderTransaction::Begin(target);
  ASSERT_TRUE(transaction.ok()) << transaction.status();
  Write((*transaction)->path(), "a", "1");
  Write((*transaction)->path() + "/sub", "b", "2");
  EXPECT_FALSE(fs::exists(target));
  ASSERT_TRUE((*transaction)->Commit().ok());
  EXPECT_EQ(ReadFile(target + "/sub/b").value(), "2");
  EXPECT_THAT(Names(scratch / "deep/er"), ElementsAre("model"));
  EXPECT_EQ(fs::status(target).permissions() & fs::perms::others_read, fs::perms::others_read);
  EXPECT_EQ((*transaction)->Commit().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(FolderTransactionTest, WithoutCommitNothingStays) {
  const ScratchFolder scratch;
  {
    auto transaction = FolderTransaction::Begin(scratch / "model/");
    ASSERT_TRUE(transaction.ok()) << transaction.status();
    Write((*transaction)->path(), "a", "1");
  }
  EXPECT_THAT(Names(scratch.path()), IsEmpty());
}

TEST(FolderTransactionTest, ReplacesAFolderAsAWhole) {
  const ScratchFolder scratch;
  const std::string target = scratch / "model";
  Write(target, "old", "1");
  auto transaction = FolderTransaction::Begin(target);
  ASSERT_TRUE(transaction.ok()) << transaction.status();
  Write((*transaction)->path(), "new", "2");
  EXPECT_THAT(Names(target), ElementsAre("old"));
  const absl::Status committed = (*transaction)->Commit();
  ASSERT_TRUE(committed.ok()) << committed;
  EXPECT_THAT(Names(target), ElementsAre("new"));
  EXPECT_THAT(Names(scratch.path()), ElementsAre("model"));
}

TEST(FolderTransactionTest, AKilledWriterLeavesTheOldFolderAndItsRestIsRemoved) {
  const ScratchFolder scratch;
  const std::string target = scratch / "model";
  Write(target, "old", "1");
  DieInTheMiddle(target);
  EXPECT_THAT(Names(target), ElementsAre("old"));
  EXPECT_EQ(Names(scratch.path()).size(), 2u) << "the killed writer's folder should still be there";
  Write(scratch.path(), ".other.partial.x", "a neighbour's file");
  ASSERT_TRUE(FolderTransaction::Recover(target).ok());
  EXPECT_THAT(Names(scratch.path()), ElementsAre(".other.partial.x", "model"));
}

TEST(FolderTransactionTest, ALivingWriterIsLeftAlone) {
  const ScratchFolder scratch;
  const std::string target = scratch / "model";
  auto first = FolderTransaction::Begin(target);
  ASSERT_TRUE(first.ok());
  Write((*first)->path(), "first", "1");
  auto second = FolderTransaction::Begin(target);
  ASSERT_TRUE(second.ok());
  Write((*second)->path(), "second", "2");
  ASSERT_TRUE((*second)->Commit().ok());
  EXPECT_TRUE(fs::exists((*first)->path() + "/first"));
  ASSERT_TRUE((*first)->Commit().ok());
  EXPECT_THAT(Names(target), ElementsAre("first"));
  EXPECT_THAT(Names(scratch.path()), ElementsAre("model"));
}

TEST(FolderTransactionTest, AFolderThatWasMovedAsideGetsItsNameBack) {
  const ScratchFolder scratch;
  Write(scratch / ".model.replaced", "old", "1");
  ASSERT_TRUE(FolderTransaction::Recover(scratch / "model").ok());
  EXPECT_THAT(Names(scratch.path()), ElementsAre("model"));
  // With the target there it is only left over.
  Write(scratch / ".model.replaced", "older", "0");
  ASSERT_TRUE(FolderTransaction::Recover(scratch / "model").ok());
  EXPECT_THAT(Names(scratch.path()), ElementsAre("model"));
  EXPECT_THAT(Names(scratch / "model"), ElementsAre("old"));
}

TEST(FolderTransactionTest, TargetsThatAreNoNameAreRefused) {
  for (const char* target : {"", ".", "..", "/", "a/.."}) {
    EXPECT_EQ(FolderTransaction::Begin(target).status().code(), absl::StatusCode::kInvalidArgument)
        << target;
  }
}

}  // namespace
}  // namespace rollcall::checkpoint
