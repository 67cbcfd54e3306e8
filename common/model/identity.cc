#include "common/model/identity.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/model/peft_config.h"
#include "common/tensor/bridge.h"
#include "common/wire/manifest.h"
#include "common/wire/sha256.h"

namespace rollcall::model {
namespace {

std::string RopeJson(const Rope& rope) {
  const RopeScaling& scaling = rope.scaling;
  return absl::StrFormat(
      R"({"attention_factor":%.17g,"beta_fast":%.17g,"beta_slow":%.17g,"factor":%.17g,)"
      R"("high_freq_factor":%.17g,"long_factor":[%s],"low_freq_factor":%.17g,"original":%d,)"
      R"("short_factor":[%s],"theta":%.17g,"truncate":%d,"type":%d})",
      scaling.attention_factor, scaling.beta_fast, scaling.beta_slow, scaling.factor,
      scaling.high_freq_factor, absl::StrJoin(scaling.long_factor, ","), scaling.low_freq_factor,
      scaling.original_max_position_embeddings, absl::StrJoin(scaling.short_factor, ","),
      rope.theta, scaling.truncate, static_cast<int>(scaling.type));
}

// One letter for each layer: s(liding), r(otating) and e(xperts) as the bits of 'a' and up. Empty
// where no layer is special.
std::string LayersText(const ModelConfig& config) {
  std::string text;
  bool plain = true;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const LayerOptions layer = config.Layer(i);
    text += static_cast<char>('a' + layer.sliding + 2 * layer.rotates + 4 * layer.experts);
    plain = plain && !layer.sliding && layer.rotates && !layer.experts;
  }
  return plain ? "" : text;
}

// What a plain Llama does not have.
std::string SwitchesJson(const ModelConfig& config) {
  return absl::StrFormat(
      R"({"activation":%d,"attention_scale":%.17g,"attention_softcap":%.17g,)"
      R"("embedding_scale":%.17g,"expert_intermediate_size":%d,"experts_per_token":%d,)"
      R"("family":"%s","final_softcap":%.17g,"head":%d,"layers":"%s","mlp_bias":%d,)"
      R"("normalize_expert_weights":%d,"num_experts":%d,"output_bias":%d,"qk_norm":%d,)"
      R"("qkv_bias":%d,"rotary_dim":%d,"score_bias":%d,"sliding_rope":%s,"sliding_window":%d,)"
      R"("unit_offset_norm":%d})",
      static_cast<int>(config.activation), config.attention_scale, config.attention_softcap,
      config.embedding_scale, config.expert_intermediate_size, config.experts_per_token,
      config.family, config.final_softcap, static_cast<int>(config.head), LayersText(config),
      config.mlp_bias, config.normalize_expert_weights, config.num_experts, config.output_bias,
      static_cast<int>(config.qk_norm), config.qkv_bias, config.rotary_dim, config.score_bias,
      config.sliding_rope ? RopeJson(*config.sliding_rope) : "null", config.sliding_window,
      config.unit_offset_norm);
}

// Of a plain Llama only the first part, as it was before there were other families.
std::string CanonicalJson(const ModelConfig& config) {
  const RopeScaling& rope = config.rope.scaling;
  std::string json = absl::StrFormat(
      R"({"head_dim":%d,"hidden_size":%d,"intermediate_size":%d,"max_position_embeddings":%d,)"
      R"("num_heads":%d,"num_kv_heads":%d,"num_layers":%d,"rms_norm_eps":%.17g,)"
      R"("rope_factor":%.17g,"rope_high_freq_factor":%.17g,"rope_low_freq_factor":%.17g,)"
      R"("rope_original_max_position_embeddings":%d,"rope_theta":%.17g,"rope_type":%d,)"
      R"("tie_word_embeddings":%s,"vocab_size":%d})",
      config.head_dim, config.hidden_size, config.intermediate_size, config.max_position_embeddings,
      config.num_heads, config.num_kv_heads, config.num_layers, config.rms_norm_eps, rope.factor,
      rope.high_freq_factor, rope.low_freq_factor, rope.original_max_position_embeddings,
      config.rope.theta, static_cast<int>(rope.type), config.tie_word_embeddings ? "true" : "false",
      config.vocab_size);
  if (SwitchesJson(config) != SwitchesJson(ModelConfig())) json += SwitchesJson(config);
  if (rope.type > RopeScaling::Type::kLlama3) json += RopeJson(config.rope);
  return json;
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

namespace {

absl::StatusOr<v1::WeightManifest> ManifestOfTensors(
    const Decoder& decoder, const std::vector<tensor::NamedTensor>& parameters) {
  v1::WeightManifest manifest;
  manifest.set_architecture_hash(ArchitectureHash(decoder.config()));
  for (const tensor::NamedTensor& parameter : parameters) {
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

}  // namespace

absl::StatusOr<v1::WeightManifest> ManifestOf(const Decoder& decoder) {
  return ManifestOfTensors(decoder, decoder.parameters());
}

absl::StatusOr<v1::WeightManifest> AdapterManifestOf(const Decoder& decoder) {
  return ManifestOfTensors(decoder, decoder.adapter_parameters());
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

absl::StatusOr<std::string> AdaptedManifestHash(const Decoder& decoder,
                                                const std::string& base_manifest_hash) {
  ROLLCALL_ASSIGN_OR_RETURN(const v1::WeightManifest manifest, AdapterManifestOf(decoder));
  ROLLCALL_ASSIGN_OR_RETURN(const std::string adapter, ManifestHash(manifest));
  const std::optional<wire::Sha256Digest> base = wire::DigestFromBytes(base_manifest_hash);
  if (decoder.lora() == nullptr || !base) {
    return absl::InternalError("an adapter's hash needs an adapter and the base's hash");
  }
  return wire::ToBytes(wire::AdaptedManifestHash(*base, *wire::DigestFromBytes(adapter),
                                                 CanonicalAdapterConfig(*decoder.lora())));
}

absl::StatusOr<std::string> PolicyManifestHash(const Decoder& decoder) {
  ROLLCALL_ASSIGN_OR_RETURN(const v1::WeightManifest manifest, ManifestOf(decoder));
  ROLLCALL_ASSIGN_OR_RETURN(std::string hash, ManifestHash(manifest));
  return decoder.lora() == nullptr ? hash : AdaptedManifestHash(decoder, hash);
}

}  // namespace rollcall::model
