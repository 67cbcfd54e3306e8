#include "common/model/identity.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/tensor/bridge.h"
#include "common/wire/manifest.h"
#include "common/wire/sha256.h"

namespace rollcall::model {
namespace {

std::string CanonicalJson(const ModelConfig& config) {
  const RopeScaling& rope = config.rope_scaling;
  return absl::StrFormat(
      R"({"head_dim":%d,"hidden_size":%d,"intermediate_size":%d,"max_position_embeddings":%d,)"
      R"("num_heads":%d,"num_kv_heads":%d,"num_layers":%d,"rms_norm_eps":%.17g,)"
      R"("rope_factor":%.17g,"rope_high_freq_factor":%.17g,"rope_low_freq_factor":%.17g,)"
      R"("rope_original_max_position_embeddings":%d,"rope_theta":%.17g,"rope_type":%d,)"
      R"("tie_word_embeddings":%s,"vocab_size":%d})",
      config.head_dim, config.hidden_size, config.intermediate_size, config.max_position_embeddings,
      config.num_heads, config.num_kv_heads, config.num_layers, config.rms_norm_eps, rope.factor,
      rope.high_freq_factor, rope.low_freq_factor, rope.original_max_position_embeddings,
      config.rope_theta, static_cast<int>(rope.type), config.tie_word_embeddings ? "true" : "false",
      config.vocab_size);
}

}  // namespace

std::string ArchitectureHash(const ModelConfig& config) {
  return wire::ToBytes(wire::Sha256Of(CanonicalJson(config)));
}

absl::StatusOr<std::string> TokenizerHash(const std::string& folder) {
  absl::StatusOr<std::string> bytes = ReadFile(folder + "/tokenizer.json");
  if (absl::IsNotFound(bytes.status())) return std::string();
  if (!bytes.ok()) return bytes.status();
  return wire::ToBytes(wire::Sha256Of(*bytes));
}

v1::NumericsFingerprint FingerprintOf(const Decoder& decoder) {
  v1::NumericsFingerprint fingerprint;
  fingerprint.set_kernel_revision(decoder.KernelRevision());
  fingerprint.set_arithmetic(decoder.Arithmetic());
  fingerprint.set_dtype(decoder.dtype() == at::kBFloat16 ? "bfloat16" : "float32");
  fingerprint.set_parallel_layout("1");
  return fingerprint;
}

absl::StatusOr<v1::WeightManifest> ManifestOf(const Decoder& decoder) {
  v1::WeightManifest manifest;
  manifest.set_architecture_hash(ArchitectureHash(decoder.config()));
  for (const tensor::NamedTensor& parameter : decoder.parameters()) {
    ROLLCALL_ASSIGN_OR_RETURN(const wire::DType dtype,
                              tensor::DTypeOf(parameter.tensor.scalar_type()));
    ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor host, tensor::HostContiguous(parameter.tensor));
    v1::TensorSpec* spec = manifest.add_tensors();
    spec->set_name(parameter.name);
    spec->set_dtype(static_cast<v1::DataType>(dtype));
    for (const int64_t size : host.sizes()) spec->add_shape(static_cast<uint64_t>(size));
    spec->set_sha256(wire::ToBytes(wire::Sha256Of(tensor::BytesOf(host))));
  }
  return manifest;
}

absl::StatusOr<std::string> ManifestHash(const v1::WeightManifest& manifest) {
  std::vector<wire::TensorEntry> entries;
  for (const v1::TensorSpec& spec : manifest.tensors()) {
    const std::optional<wire::DType> dtype = wire::DTypeFromCode(spec.dtype());
    const std::optional<wire::Sha256Digest> digest = wire::DigestFromBytes(spec.sha256());
    if (!dtype || !digest || spec.shape_size() > 8) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", spec.name(), ": expected a known dtype, 1 to 8 dimensions and a ",
                       "hash of 32 bytes"));
    }
    wire::TensorEntry entry{.name = spec.name(), .dtype = *dtype, .shape = {}, .sha256 = *digest};
    for (const uint64_t size : spec.shape()) entry.shape.push_back(static_cast<int64_t>(size));
    entries.push_back(std::move(entry));
  }
  return wire::ToBytes(wire::ManifestHash(entries));
}

}  // namespace rollcall::model
