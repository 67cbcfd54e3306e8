#include "services/cli/train/sample_feed.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"

namespace rollcall::cli {
namespace {

std::string NewestFile(const std::string& folder) {
  std::string newest;
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(folder, error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    // Names hold the lineage, zero-padded.
    if (it->path().extension() == ".rec") newest = std::max(newest, it->path().string());
  }
  return newest;
}

// At most `width` bytes, cut between characters.
std::string Cut(const std::string& text, size_t width) {
  if (text.size() <= width) return absl::Utf8SafeCHexEscape(text);
  size_t end = width;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return absl::Utf8SafeCHexEscape(text.substr(0, end)) + "…";
}

}  // namespace

std::optional<v1::Group> SampleFeed::Newest() {
  if (reader_ == nullptr) {
    const std::string path = NewestFile(folder_);
    if (path.empty()) return std::nullopt;
    absl::StatusOr<std::unique_ptr<wire::RecordReader>> reader = wire::RecordReader::Open(path);
    if (!reader.ok()) return std::nullopt;
    reader_ = *std::move(reader);
  }
  std::optional<v1::Group> newest;
  while (true) {
    const absl::StatusOr<std::optional<std::string>> payload = reader_->Next();
    if (!payload.ok() || !payload->has_value()) return newest;
    v1::RolloutRecord record;
    if (!record.ParseFromString(**payload) || !record.has_group()) continue;
    if (record.group().purpose() == v1::RANDOM_PURPOSE_ROLLOUT)
      newest = std::move(*record.mutable_group());
  }
}

std::string FormatSample(const v1::Group& group, size_t width) {
  for (const v1::Trajectory& trajectory : group.trajectories()) {
    if (!trajectory.reward().has_value()) continue;
    return absl::StrFormat("reward %.3f  %s → %s", trajectory.reward().value(),
                           Cut(group.prompt().text(), width), Cut(trajectory.text(), width));
  }
  return "";
}

}  // namespace rollcall::cli
