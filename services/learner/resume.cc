#include "services/learner/resume.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/util/message_differencer.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/config/yaml.h"
#include "common/wire/sha256.h"

namespace rollcall::learner {

v1::RunConfig TrainingConfig(const v1::RunConfig& config) {
  v1::RunConfig kept = config;
  kept.clear_output_dir();
  kept.clear_rpc();
  kept.clear_security();
  kept.clear_generator();
  kept.clear_evaluation();
  kept.mutable_data()->clear_evaluation();
  kept.mutable_reward()->clear_listen();
  kept.mutable_reward()->clear_metrics_listen();
  kept.mutable_reward()->clear_address();
  const std::string reference_model = config.reference().model_path();
  kept.mutable_reference()->Clear();
  kept.mutable_reference()->set_model_path(reference_model);
  kept.mutable_preference()->clear_reference_cache();
  v1::LearnerSection* learner = kept.mutable_learner();
  learner->clear_listen();
  learner->clear_metrics_listen();
  learner->clear_threads();
  learner->clear_micro_batch_tokens();
  learner->clear_checkpoint();
  learner->clear_stall_timeout();
  learner->clear_ranks();
  learner->clear_rank();
  learner->clear_rendezvous();
  learner->clear_peak_tflops();
  return kept;
}

std::string TrainingConfigHash(const v1::RunConfig& config) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    TrainingConfig(config).SerializeToCodedStream(&coded);
  }
  return wire::ToBytes(wire::Sha256Of(bytes));
}

std::vector<std::string> DescribeConfigChanges(const v1::LearnerCheckpoint& checkpoint,
                                               const v1::RunConfig& config) {
  if (checkpoint.config_hash() == TrainingConfigHash(config)) return {};
  v1::RunConfig before;
  const absl::Status parsed =
      config::ParseYaml(checkpoint.config_yaml(), "the checkpoint's configuration", {}, &before);
  if (!parsed.ok()) {
    return {absl::StrCat("the checkpoint's configuration cannot be compared: ",
                         std::string(parsed.message()))};
  }
  std::string report;
  google::protobuf::util::MessageDifferencer differencer;
  differencer.ReportDifferencesToString(&report);
  differencer.Compare(TrainingConfig(before), TrainingConfig(config));
  return absl::StrSplit(report, '\n', absl::SkipEmpty());
}

absl::Status CheckResumeMode(v1::ResumeMode mode, bool has_checkpoint, const std::string& run_dir) {
  if (mode == v1::RESUME_MODE_NEVER && has_checkpoint) {
    return absl::FailedPreconditionError(
        absl::StrCat(run_dir,
                     " holds a checkpoint and learner.checkpoint.resume is never: give the run "
                     "another name, or resume: auto to go on"));
  }
  if (mode == v1::RESUME_MODE_REQUIRED && !has_checkpoint) {
    return absl::NotFoundError(
        absl::StrCat(run_dir, " holds no checkpoint and learner.checkpoint.resume is required"));
  }
  return absl::OkStatus();
}

}  // namespace rollcall::learner
