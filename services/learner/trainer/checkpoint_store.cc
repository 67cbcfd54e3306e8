#include "services/learner/trainer/checkpoint_store.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/file.h"
#include "common/base/logging.h"
#include "common/base/status.h"
#include "common/checkpoint/folder_transaction.h"
#include "common/wire/sha256.h"

namespace rollcall::learner {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step-";
constexpr char kRecordFile[] = "/checkpoint.pb";
constexpr char kOptimizerFile[] = "/optimizer.safetensors";

std::optional<uint64_t> StepOf(const std::string& name) {
  if (name.compare(0, kPrefix.size(), kPrefix) != 0) return std::nullopt;
  uint64_t step = 0;
  const char* end = name.data() + name.size();
  const auto parsed = std::from_chars(name.data() + kPrefix.size(), end, step);
  if (parsed.ec != std::errc() || parsed.ptr != end) return std::nullopt;
  return step;
}

// The 32 bytes of the file's SHA-256, read in pieces: optimizer state is twice the model's size.
absl::StatusOr<std::string> HashOfFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat(path, ": cannot be opened"));
  wire::Sha256 hash;
  std::vector<char> piece(size_t{1} << 20);
  while (file) {
    file.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    hash.Update(piece.data(), static_cast<size_t>(file.gcount()));
  }
  if (file.bad()) return absl::DataLossError(absl::StrCat(path, ": cannot be read"));
  return wire::ToBytes(hash.Finish());
}

}  // namespace

CheckpointStore::CheckpointStore(std::string root, uint32_t keep)
    : root_(std::move(root)), keep_(std::max(1u, keep)) {}

std::string CheckpointStore::FolderOf(uint64_t step) const {
  return absl::StrCat(root_, "/step-", absl::StrFormat("%08d", step));
}

std::vector<uint64_t> CheckpointStore::Steps() const {
  std::vector<uint64_t> steps;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root_, error)) {
    if (const auto step = StepOf(entry.path().filename().string())) steps.push_back(*step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

absl::StatusOr<std::string> CheckpointStore::Save(v1::LearnerCheckpoint record,
                                                  const Trainer& trainer) {
  const std::string folder = FolderOf(trainer.step());
  ROLLCALL_ASSIGN_OR_RETURN(auto transaction, checkpoint::FolderTransaction::Begin(folder));
  ROLLCALL_RETURN_IF_ERROR(trainer.SaveState(transaction->path()));
  ROLLCALL_RETURN_IF_ERROR(trainer.FillRecord(record));
  ROLLCALL_ASSIGN_OR_RETURN(*record.mutable_optimizer_sha256(),
                            HashOfFile(transaction->path() + kOptimizerFile));
  for (const std::string& file : trainer.ExtraStateFiles()) {
    ROLLCALL_ASSIGN_OR_RETURN((*record.mutable_file_sha256())[file],
                              HashOfFile(absl::StrCat(transaction->path(), "/", file)));
  }
  record.set_format(kFormat);
  if (record.time() == 0) record.set_time(absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()));
  ROLLCALL_RETURN_IF_ERROR(
      WriteFileAtomically(transaction->path() + kRecordFile, record.SerializeAsString()));
  ROLLCALL_RETURN_IF_ERROR(transaction->Commit());
  RemoveOld();
  return folder;
}

void CheckpointStore::RemoveOld() const {
  const std::vector<uint64_t> steps = Steps();
  for (size_t i = 0; i + keep_ < steps.size(); ++i) {
    const absl::Status removed = RemoveTree(FolderOf(steps[i]));
    if (!removed.ok()) LogWarning("an old checkpoint could not be removed", {{"error", removed}});
  }
}

absl::StatusOr<v1::LearnerCheckpoint> CheckpointStore::ReadRecord(const std::string& folder) const {
  ROLLCALL_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(folder + kRecordFile));
  v1::LearnerCheckpoint record;
  if (!record.ParseFromString(bytes) || record.format() == 0) {
    return absl::DataLossError(absl::StrCat(folder, kRecordFile, ": not a checkpoint's record"));
  }
  if (record.format() > kFormat) {
    return absl::UnimplementedError(absl::StrCat(folder, ": has format ", record.format(),
                                                 ", this program reads up to ", kFormat));
  }
  ROLLCALL_ASSIGN_OR_RETURN(const std::string hash, HashOfFile(folder + kOptimizerFile));
  if (hash != record.optimizer_sha256()) {
    return absl::DataLossError(
        absl::StrCat(folder, kOptimizerFile, ": another SHA-256 than the record's"));
  }
  for (const auto& [file, expected] : record.file_sha256()) {
    ROLLCALL_ASSIGN_OR_RETURN(const std::string actual,
                              HashOfFile(absl::StrCat(folder, "/", file)));
    if (actual != expected) {
      return absl::DataLossError(
          absl::StrCat(folder, "/", file, ": another SHA-256 than the record's"));
    }
  }
  return record;
}

absl::StatusOr<std::optional<CheckpointStore::Loaded>> CheckpointStore::LoadNewest(
    Trainer& trainer) const {
  std::vector<uint64_t> steps = Steps();
  std::reverse(steps.begin(), steps.end());
  absl::Status newest_error;
  for (const uint64_t step : steps) {
    const std::string folder = FolderOf(step);
    absl::StatusOr<v1::LearnerCheckpoint> record = ReadRecord(folder);
    absl::Status error = record.status();
    if (error.ok()) error = trainer.LoadState(folder, *record);
    if (error.ok()) return std::optional<Loaded>(Loaded{folder, *std::move(record)});
    // Whole, and of something else than this run trains: an older one would be no better.
    if (absl::IsFailedPrecondition(error)) return error;
    LogWarning("a checkpoint is damaged and passed over", {{"folder", folder}, {"error", error}});
    newest_error.Update(error);
  }
  if (steps.empty()) return std::optional<Loaded>();
  return absl::DataLossError(
      absl::StrCat(root_, ": none of ", steps.size(),
                   " checkpoints is whole; the newest: ", std::string(newest_error.message())));
}

}  // namespace rollcall::learner
