#pragma once

#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "rollcall/v1/config.pb.h"

namespace rollcall::config {

// Who reads the configuration. Every process takes the whole of it; a service that runs alone needs
// only its own sections to be complete, so a file with nothing but `reward:` starts a reward
// service.
enum class Role { kRun, kLearner, kGenerator, kReward, kRewardModel, kReference };

// A rule between fields that is broken.
struct Violation {
  std::string field;    // "algorithm.samples_per_prompt"
  std::string message;  // "grpo compares the samples of a group: must be >= 2, got 1"
};

// LoadYaml into a RunConfig, then what ValidateRunConfig checks for `role`; same statuses, and a
// broken rule is reported at the line that set its field.
absl::StatusOr<v1::RunConfig> LoadRunConfig(const std::string& path,
                                            std::span<const std::string> sets = {},
                                            Role role = Role::kRun);

// The rules between fields, for a configuration whose fields are each in bounds. Whole-run rules
// (data, stage, algorithm) hold for kRun and kLearner; the other roles check their own section.
std::vector<Violation> FindViolations(const v1::RunConfig& config, Role role = Role::kRun);

// The fields that make rollouts come from another distribution than the policy's own at the
// temperature, as "sampling.top_k, sampling.presence_penalty"; empty: none. Ratios and KL are taken
// between the policy's own probabilities, so they are uncorrected for these.
std::string UncorrectedSampling(const v1::SamplingSection& sampling);

// The folder a run keeps everything in: output_dir/name, absolute. Nothing is made.
std::string RunFolder(const v1::RunConfig& config);

// Whether the model has a low-rank adapter: one that is trained, or one that is read.
bool AsksAdapter(const v1::ModelSection& model);

// INVALID_ARGUMENT that lists FindViolations, one "field: message" a line.
absl::Status ValidateRunConfig(const v1::RunConfig& config, Role role = Role::kRun);

}  // namespace rollcall::config
