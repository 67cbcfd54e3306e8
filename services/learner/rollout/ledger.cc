#include "services/learner/rollout/ledger.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <utility>

#include "common/base/logging.h"
#include "common/base/status.h"
#include "common/config/algorithm_presets.h"
#include "common/wire/sha256.h"

namespace rollcall::learner {
namespace {

// More would mean that the disk is slower than generation; then waiting for it is right.
constexpr size_t kWaitingRecords = 1024;

bool SampledUnder(const v1::Group& group, const std::string& manifest_hash) {
  if (group.trajectories().empty()) return false;
  for (const v1::Trajectory& trajectory : group.trajectories()) {
    for (const v1::Segment& segment : trajectory.segments()) {
      for (const v1::VersionSpan& span : segment.version_spans()) {
        if (span.version().manifest_hash() != manifest_hash) return false;
      }
    }
  }
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Ledger>> Ledger::Open(const std::string& folder,
                                                     const v1::LineageStart& start) {
  ROLLCALL_ASSIGN_OR_RETURN(std::unique_ptr<wire::RolloutLogWriter> writer,
                            wire::RolloutLogWriter::Open(folder, start));
  return std::unique_ptr<Ledger>(new Ledger(std::move(writer)));
}

Ledger::Ledger(std::unique_ptr<wire::RolloutLogWriter> writer)
    : writer_(std::move(writer)), queue_(kWaitingRecords), thread_([this] { Run(); }) {}

Ledger::~Ledger() {
  queue_.Close();
  thread_.join();
  if (const absl::Status status = writer_->Sync(); !status.ok()) {
    LogError("rollout file was not synced", {{"error", status}});
  }
}

void Ledger::RecordGroup(v1::Group group) {
  v1::RolloutRecord record;
  *record.mutable_group() = std::move(group);
  queue_.Push(std::move(record));
}

void Ledger::RecordTrained(uint64_t group_id, uint64_t step) {
  v1::RolloutRecord record;
  v1::GroupUpdate* update = record.mutable_update();
  update->set_purpose(v1::RANDOM_PURPOSE_ROLLOUT);
  update->set_group_id(group_id);
  update->set_trained_step(step);
  update->mutable_outcome()->mutable_trained();
  queue_.Push(std::move(record));
}

void Ledger::RecordFiltered(uint64_t group_id, const std::string& filter) {
  v1::RolloutRecord record;
  v1::GroupUpdate* update = record.mutable_update();
  update->set_purpose(v1::RANDOM_PURPOSE_ROLLOUT);
  update->set_group_id(group_id);
  update->mutable_outcome()->mutable_filtered()->set_filter(filter);
  queue_.Push(std::move(record));
}

absl::Status Ledger::Flush() {
  uint64_t ticket = 0;
  {
    absl::MutexLock lock(&mutex_);
    ticket = ++tickets_;
  }
  queue_.Push(FlushRequest{ticket});
  absl::MutexLock lock(&mutex_);
  const auto flushed = [this, ticket]()
                           ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return flushed_ >= ticket; };
  mutex_.Await(absl::Condition(&flushed));
  return status_;
}

void Ledger::Run() {
  while (std::optional<Entry> entry = queue_.Pop()) {
    if (const auto* record = std::get_if<v1::RolloutRecord>(&*entry)) {
      Write(*record);
      continue;
    }
    const absl::Status synced = writer_->Sync();
    absl::MutexLock lock(&mutex_);
    status_.Update(synced);
    flushed_ = std::max(flushed_, std::get<FlushRequest>(*entry).ticket);
  }
}

void Ledger::Write(const v1::RolloutRecord& record) {
  const absl::Status status = writer_->Append(record);
  if (status.ok()) return;
  LogWarning("a rollout was not recorded",
             {{"group", record.group().group_id()}, {"error", status}});
  if (absl::IsInvalidArgument(status)) return;  // too large; the file is as it was
  absl::MutexLock lock(&mutex_);
  status_.Update(status);
}

std::string ContentHash(const v1::RunConfig& config) {
  v1::RunConfig content;
  content.set_seed(config.seed());
  *content.mutable_data() = config.data();
  *content.mutable_sampling() = config.sampling();
  content.mutable_model()->set_dtype(config.model().dtype());
  content.mutable_model()->set_path(config.model().path());
  content.mutable_algorithm()->set_samples_per_prompt(config.algorithm().samples_per_prompt());
  content.mutable_algorithm()->set_min_valid_samples(config.algorithm().min_valid_samples());
  if (config.algorithm().advantage_baseline() == v1::ADVANTAGE_BASELINE_GREEDY) {
    content.mutable_algorithm()->set_advantage_baseline(v1::ADVANTAGE_BASELINE_GREEDY);
  }
  // Whether the reference is asked at all, not how strongly it counts.
  content.mutable_algorithm()->set_kl_coefficient(config::NeedsReferenceService(config) ? 1 : 0);
  *content.mutable_reward()->mutable_verifiers() = config.reward().verifiers();
  content.mutable_reference()->set_model_path(config.reference().model_path());
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    content.SerializeToCodedStream(&coded);
  }
  return wire::ToBytes(wire::Sha256Of(bytes));
}

std::map<uint64_t, v1::Group> LoadReusableGroups(const std::string& folder, uint64_t first_group_id,
                                                 const std::string& content_hash,
                                                 const std::string& manifest_hash) {
  std::map<uint64_t, v1::Group> groups;
  absl::StatusOr<wire::RolloutIndex> index = wire::RolloutIndex::Read(folder);
  absl::Status status = index.status();
  if (index.ok()) {
    status = index->ForEach(
        [&](const wire::RolloutIndex::Key& key, const wire::RolloutIndex::Entry& entry) {
          // Trained ones were trained by a lineage that this one voids.
          return key.first == v1::RANDOM_PURPOSE_ROLLOUT && key.second >= first_group_id &&
                 !entry.outcome.has_dropped() && entry.content_hash == content_hash;
        },
        [&](v1::Group group) {
          if (SampledUnder(group, manifest_hash)) {
            group.mutable_outcome()->mutable_finished();
            group.clear_trained_step();
            const uint64_t id = group.group_id();
            groups[id] = std::move(group);
          }
          return absl::OkStatus();
        });
  }
  if (!status.ok()) {
    LogWarning("rollouts of earlier lineages are not reused", {{"error", status}});
    groups.clear();
  }
  return groups;
}

}  // namespace rollcall::learner
