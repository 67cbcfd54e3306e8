#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/model/lora_config.h"
#include "common/model/model_config.h"

namespace rollcall::model {

// PEFT's adapter_config.json.

// The settings of an adapter for this model, resolved (ResolveLora). Settings that change nothing of
// what a finished adapter computes (its dropout in training, versions, how it was initialised) may
// be anything; whatever else PEFT may hold, or come to hold, has to be off.
//   INVALID_ARGUMENT  not JSON, a field is missing or out of range, a target names nothing
//   UNIMPLEMENTED     another kind of adapter; DoRA, ranks by pattern, single layers, biases,
//                     regular expressions…, by the name of the field
// Messages are "<file>: <field>: …".
absl::StatusOr<LoraConfig> ReadPeftConfig(std::string_view json, std::string_view file,
                                          const ModelConfig& model);

// What PEFT reads. `lora` is resolved.
std::string PeftConfigJson(const LoraConfig& lora, Head head);

// The part that decides what the adapter's tensors compute, as canonical JSON: one line, keys
// sorted. Equal adapters have equal bytes; ReadPeftConfig reads it.
std::string CanonicalAdapterConfig(const LoraConfig& lora);

}  // namespace rollcall::model
