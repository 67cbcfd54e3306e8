#pragma once

#include "absl/status/statusor.h"
#include "common/model/model_config.h"

namespace rollcall::model {

// The same model with another head: a language model's becomes a reward or value model of one
// label, and its original_json the config.json that transformers reads as one. A model that has
// the head already stays as it is. INVALID_ARGUMENT: `head` is kLanguageModel and the model has
// another; UNIMPLEMENTED: a family without such a class.
absl::StatusOr<ModelConfig> WithScoreHead(const ModelConfig& config, Head head);

}  // namespace rollcall::model
