#include "services/learner/publish/lineage.h"

#include <google/protobuf/util/json_util.h>

#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/file.h"
#include "common/base/status.h"

namespace rollcall::learner {
namespace {

// Run ids hold 1 to 128 characters of [A-Za-z0-9._-] (identity.proto).
std::string NewRunId(const std::string& name) {
  constexpr size_t kLongestName = 128 - 9;
  std::string id;
  for (const char c : name.substr(0, kLongestName)) {
    const bool allowed = absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
    id.push_back(allowed ? c : '-');
  }
  std::random_device random;  // identity, not part of the experiment: the seed must not decide it
  return absl::StrFormat("%s-%08x", id, static_cast<uint32_t>(random()));
}

}  // namespace

absl::StatusOr<v1::LineageRecord> ReadLineage(const std::string& run_folder) {
  const std::string path = run_folder + "/lineage";
  ROLLCALL_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  v1::LineageRecord record;
  const auto parsed = google::protobuf::util::JsonStringToMessage(text, &record);
  if (!parsed.ok() || record.run_id().empty() || record.lineage() == 0) {
    return absl::DataLossError(absl::StrCat(
        path, ": is no lineage record (run_id and lineage); the run cannot be told from others"));
  }
  return record;
}

absl::StatusOr<v1::LineageRecord> OpenLineage(const std::string& run_folder,
                                              const std::string& name, Clock* clock) {
  ROLLCALL_RETURN_IF_ERROR(MakeDirectories(run_folder));
  absl::StatusOr<v1::LineageRecord> record = ReadLineage(run_folder);
  if (absl::IsNotFound(record.status())) {
    record.emplace();
    record->set_run_id(NewRunId(name));
  }
  if (!record.ok()) return record.status();
  record->set_lineage(record->lineage() + 1);
  record->set_time(absl::ToDoubleSeconds(clock->Now() - absl::UnixEpoch()));
  std::string text;
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  if (!google::protobuf::util::MessageToJsonString(*record, &text, options).ok()) {
    return absl::InternalError("the lineage record has no JSON form");
  }
  ROLLCALL_RETURN_IF_ERROR(WriteFileAtomically(run_folder + "/lineage", text));
  return record;
}

absl::Status CheckNewestLineage(const std::string& run_folder, const std::string& run_id,
                                uint64_t lineage) {
  ROLLCALL_ASSIGN_OR_RETURN(const v1::LineageRecord now, ReadLineage(run_folder));
  if (now.run_id() == run_id && now.lineage() == lineage) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      run_folder, ": lineage ", now.lineage(), " of run ", now.run_id(),
      " has been opened since; this learner (lineage ", lineage, ") must not write any more"));
}

}  // namespace rollcall::learner
