#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "rollcall/v1/checkpoint.pb.h"
#include "rollcall/v1/config.pb.h"

namespace rollcall::learner {

// The part of a configuration that changes what is trained: without addresses, limits of waiting,
// threads, logging and how often something is saved or evaluated.
v1::RunConfig TrainingConfig(const v1::RunConfig& config);

// SHA-256 of TrainingConfig, 32 bytes.
std::string TrainingConfigHash(const v1::RunConfig& config);

// What differs between a checkpoint's configuration and the present one, one "modified:
// learner.optimizer.lr: …" a line, in what TrainingConfig keeps. Empty when nothing does.
std::vector<std::string> DescribeConfigChanges(const v1::LearnerCheckpoint& checkpoint,
                                               const v1::RunConfig& config);

// Whether checkpoint.resume allows a run folder that has (or has not) a checkpoint.
// FAILED_PRECONDITION or NOT_FOUND says what to do.
absl::Status CheckResumeMode(v1::ResumeMode mode, bool has_checkpoint, const std::string& run_dir);

}  // namespace rollcall::learner
