#include "services/learner/reference/reference_cache.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/logging.h"
#include "common/base/status.h"
#include "common/wire/little_endian.h"
#include "common/wire/sha256.h"

namespace rollcall::learner {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "values are written as they lie");

constexpr size_t kDigestBytes = 32;
constexpr size_t kNumericsDigits = 16;  // of 64 in the file's name

// What entries are found by: where the scored part begins, and all tokens.
std::string DigestOf(const TrainSequence& sequence) {
  std::string bytes;
  wire::AppendLittleEndian(static_cast<uint32_t>(FirstScored(sequence)), &bytes);
  for (const uint32_t id : sequence.token_ids) wire::AppendLittleEndian(id, &bytes);
  return wire::ToBytes(wire::Sha256Of(bytes));
}

std::string FileStem(const v1::ModelDescription& model) {
  const auto weights = wire::DigestFromBytes(model.manifest_hash());
  const std::string numerics = wire::ToHex(wire::Sha256Of(model.numerics().SerializeAsString()));
  return absl::StrCat(weights.has_value() ? wire::ToHex(*weights) : "unknown", "-",
                      numerics.substr(0, kNumericsDigits), "-");
}

// Cuts the file at the first damaged record that whole ones follow; what was behind is lost.
absl::Status CutDamage(const std::string& path) {
  ROLLCALL_ASSIGN_OR_RETURN(const auto reader, wire::RecordReader::Open(path));
  uint64_t kept = 0;
  while (true) {
    const absl::StatusOr<std::optional<std::string>> record = reader->Next();
    if (record.ok() && !record->has_value()) return absl::OkStatus();
    if (record.ok()) {
      ++kept;
      continue;
    }
    if (!absl::IsDataLoss(record.status())) return record.status();
    LogWarning("the cache of reference log-probs is damaged; what lies behind is computed again",
               {{"error", record.status()}, {"entries_kept", kept}});
    std::error_code error;
    fs::resize_file(path, reader->offset(), error);
    if (error) return absl::UnavailableError(absl::StrCat(path, ": ", error.message()));
    return absl::OkStatus();
  }
}

}  // namespace

size_t FirstScored(const TrainSequence& sequence) {
  const auto first = std::find_if(sequence.loss_mask.begin(), sequence.loss_mask.end(),
                                  [](uint8_t mask) { return mask != 0; });
  return static_cast<size_t>(first - sequence.loss_mask.begin());
}

absl::StatusOr<std::unique_ptr<ReferenceCache>> ReferenceCache::Open(
    const std::string& folder, const v1::ModelDescription& model, uint32_t writer) {
  ROLLCALL_RETURN_IF_ERROR(MakeDirectories(folder));
  auto cache = std::unique_ptr<ReferenceCache>(new ReferenceCache());
  const std::string stem = FileStem(model);
  const std::string own = absl::StrCat(folder, "/", stem, writer, ".rec");
  absl::StatusOr<std::unique_ptr<wire::RecordWriter>> opened = wire::RecordWriter::Open(own);
  if (absl::IsDataLoss(opened.status())) {
    ROLLCALL_RETURN_IF_ERROR(CutDamage(own));
    opened = wire::RecordWriter::Open(own);
  }
  if (opened.ok()) {
    cache->writer_ = *std::move(opened);
  } else if (absl::IsFailedPrecondition(opened.status())) {
    LogWarning("another run writes this cache of reference log-probs; it is only read",
               {{"file", own}});
  } else {
    return opened.status();
  }
  std::vector<std::string> paths;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (absl::StartsWith(name, stem) && absl::EndsWith(name, ".rec")) {
      paths.push_back(entry.path().string());
    }
  }
  std::sort(paths.begin(), paths.end());
  for (const std::string& path : paths) {
    ROLLCALL_RETURN_IF_ERROR(cache->ReadFile(path, fs::path(path) == fs::path(own)));
  }
  LogInfo("cache of reference log-probs opened", {{"file", own}, {"entries", cache->entries()}});
  return cache;
}

ReferenceCache::Key ReferenceCache::KeyOf(const std::string& digest) {
  Key key;
  std::memcpy(key.data(), digest.data(), sizeof(key));
  return key;
}

absl::Status ReferenceCache::ReadFile(const std::string& path, bool own) {
  ROLLCALL_ASSIGN_OR_RETURN(std::unique_ptr<wire::RecordReader> reader,
                            wire::RecordReader::Open(path));
  const auto file = static_cast<uint32_t>(files_.size());
  while (true) {
    const uint64_t offset = reader->offset();
    const absl::StatusOr<std::optional<std::string>> record = reader->Next();
    // Another process's file, which it will cut itself.
    if (absl::IsDataLoss(record.status())) {
      LogWarning(
          "a file of the cache of reference log-probs is damaged; what lies behind is "
          "computed again",
          {{"error", record.status()}});
      break;
    }
    ROLLCALL_RETURN_IF_ERROR(record.status());
    if (!record->has_value()) break;
    if ((*record)->size() <= kDigestBytes) continue;  // of no sequence
    places_[KeyOf(**record)] = {.file = file, .offset = offset};
  }
  if (own) own_file_ = file;
  files_.push_back(std::move(reader));
  return absl::OkStatus();
}

std::optional<std::vector<float>> ReferenceCache::Find(const TrainSequence& sequence) {
  const std::string digest = DigestOf(sequence);
  const auto place = places_.find(KeyOf(digest));
  if (place == places_.end()) return std::nullopt;
  const absl::StatusOr<std::string> record =
      files_[place->second.file]->RecordAt(place->second.offset);
  const size_t tokens = sequence.token_ids.size() - FirstScored(sequence);
  const bool good = record.ok() && record->size() == kDigestBytes + tokens * sizeof(float) &&
                    record->compare(0, kDigestBytes, digest) == 0;
  if (!good) {
    LogWarning(
        "an entry of the cache of reference log-probs is damaged; it is computed again",
        {{"error", record.ok() ? absl::DataLossError("of another sequence") : record.status()}});
    places_.erase(place);
    return std::nullopt;
  }
  std::vector<float> logprobs(tokens);
  std::memcpy(logprobs.data(), record->data() + kDigestBytes, tokens * sizeof(float));
  return logprobs;
}

absl::Status ReferenceCache::Add(const TrainSequence& sequence, std::span<const float> logprobs) {
  if (writer_ == nullptr) return absl::OkStatus();
  std::string record = DigestOf(sequence);
  const Key key = KeyOf(record);
  record.append(reinterpret_cast<const char*>(logprobs.data()), logprobs.size_bytes());
  const uint64_t offset = writer_->size();
  ROLLCALL_RETURN_IF_ERROR(writer_->Append(record));
  places_[key] = {.file = own_file_, .offset = offset};
  return absl::OkStatus();
}

absl::Status ReferenceCache::Sync() {
  return writer_ == nullptr ? absl::OkStatus() : writer_->Sync();
}

}  // namespace rollcall::learner
