#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model/decoder.h"
#include "common/model/lora_config.h"
#include "rollcall/v1/config.pb.h"

namespace rollcall::model {

// Adapters in PEFT's layout: a folder with adapter_config.json and adapter_model.safetensors, which
// PeftModel.from_pretrained reads and save_pretrained writes.
inline constexpr char kAdapterConfigFile[] = "adapter_config.json";
inline constexpr char kAdapterTensorsFile[] = "adapter_model.safetensors";

// The settings of the adapter in a folder, for this model. NOT_FOUND: there is none; else the
// statuses of ReadPeftConfig.
absl::StatusOr<LoraConfig> ReadAdapterConfig(const std::string& folder, const ModelConfig& model);

// Puts the adapter of a folder into the decoder. One that says which base it was trained on
// (WriteAdapterFiles) is held against `base_manifest_hash`: FAILED_PRECONDITION where they differ;
// an empty hash compares nothing. INVALID_ARGUMENT lists every tensor that is missing, unexpected or
// of another shape. After an error the decoder has no adapter that computes anything. Inside
// TorchCall.
absl::Status LoadAdapter(const std::string& folder, const std::string& base_manifest_hash,
                         Decoder& decoder);

// The same into the adapter that the decoder has, whose settings must be those of the folder:
// FAILED_PRECONDITION says what differs. After an error the adapter is as it was.
absl::Status LoadAdapterTensors(const std::string& folder, const std::string& base_manifest_hash,
                                Decoder& decoder);

// Writes the decoder's adapter into a folder that exists, its tensors with the hash of the base
// weights in the file's metadata.
absl::Status WriteAdapterFiles(const std::string& folder, const Decoder& decoder,
                               const std::string& base_manifest_hash);
// The same as a folder of its own, complete or not at all, with the tokenizer's files of
// `source_folder` ("": none).
absl::Status WriteAdapterFolder(const std::string& path, const Decoder& decoder,
                                const std::string& base_manifest_hash,
                                const std::string& source_folder);

// The adapter that a run's model section asks for: that of lora.path, or a new one drawn from
// `seed`. Does nothing where it asks for none. Messages name the field. Inside TorchCall.
absl::Status AddConfiguredAdapter(const v1::ModelSection& section, uint64_t seed, Decoder& decoder);

}  // namespace rollcall::model
