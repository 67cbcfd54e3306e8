#pragma once

#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "common/text/tokenizer.h"
#include "rollcall/v1/config.pb.h"
#include "rollcall/v1/identity.pb.h"
#include "services/generator/engine/model_runner.h"
#include "services/generator/request_validation.h"
#include "services/generator/scheduler/scheduler.h"
#include "services/generator/weights/weight_staging.h"

namespace rollcall::generator {

// A generator's model with everything that the services must know of it.
struct LoadedModel {
  std::unique_ptr<ModelRunner> runner;
  std::shared_ptr<const text::Tokenizer> tokenizer;  // null: the folder has none
  RequestLimits limits;
  v1::NumericsFingerprint numerics;
  WeightLayout layout;
  // Of the weights that were read, with the adapter of model.lora.path; unset with
  // generator.wait_for_weights.
  std::optional<v1::PolicyVersion> version;
  SchedulerOptions scheduler;
};

// What can be said of the configuration without reading the model. INVALID_ARGUMENT names the field.
absl::Status CheckConfig(const v1::RunConfig& config);

// Reads model.path, and makes the model and its key/value cache by the `generator` section.
// INVALID_ARGUMENT names the configuration field that cannot work; other statuses are those of the
// folder's readers. Blocks on the disk.
absl::StatusOr<LoadedModel> LoadModel(const v1::RunConfig& config);

}  // namespace rollcall::generator
