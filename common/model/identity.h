#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "common/model/decoder.h"
#include "common/model/model_config.h"
#include "rollcall/v1/identity.pb.h"
#include "rollcall/v1/weights.pb.h"

namespace rollcall::model {

// What weights.proto says of a model, computed in one place so that learner, generator and
// reference always agree. Hashes are 32 raw bytes.

// SHA-256 of the fields of the configuration that decide the parameters' shapes or the forward
// pass, as canonical JSON (sorted keys, doubles in 17 digits). Not the dtype, token ids or
// initialiser.
std::string ArchitectureHash(const ModelConfig& config);

// SHA-256 of folder/tokenizer.json; empty where there is none.
absl::StatusOr<std::string> TokenizerHash(const std::string& folder);

v1::NumericsFingerprint FingerprintOf(const Decoder& decoder);

// The decoder's parameters in canonical order with the hash of each one's bytes, and the
// architecture's; tokenizer_hash is the caller's to fill. Reads every parameter: a second or so for
// each gigabyte. Called by the decoder's thread, inside TorchCall.
absl::StatusOr<v1::WeightManifest> ManifestOf(const Decoder& decoder);

// The same of the adapter's tensors alone; of a decoder without one there are none.
absl::StatusOr<v1::WeightManifest> AdapterManifestOf(const Decoder& decoder);

// PolicyVersion.manifest_hash of a manifest. INVALID_ARGUMENT names the tensor whose dtype, shape
// or hash is none.
absl::StatusOr<std::string> ManifestHash(const v1::WeightManifest& manifest);

// PolicyVersion.manifest_hash of a decoder with an adapter (wire::AdaptedManifestHash), given the
// hash of its base. Reads the adapter alone.
absl::StatusOr<std::string> AdaptedManifestHash(const Decoder& decoder,
                                                const std::string& base_manifest_hash);

// PolicyVersion.manifest_hash of a decoder as it is, with its adapter where it has one. Reads every
// parameter.
absl::StatusOr<std::string> PolicyManifestHash(const Decoder& decoder);

}  // namespace rollcall::model
