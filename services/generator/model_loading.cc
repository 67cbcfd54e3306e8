#include "services/generator/model_loading.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/logging.h"
#include "common/base/status.h"
#include "common/checkpoint/hf_folder.h"
#include "common/checkpoint/parameters.h"
#include "common/model/decoder.h"
#include "common/model/identity.h"
#include "common/model/kv_cache.h"
#include "common/tensor/device.h"
#include "common/tensor/torch_call.h"
#include "common/wire/sha256.h"
#include "services/generator/engine/decoder_runner.h"

namespace rollcall::generator {
namespace {

// Tokens that the attention kernels take at once.
constexpr uint32_t kBlockTile = 16;

struct Source {
  model::ModelConfig config;
  std::optional<checkpoint::HfFolder> folder;  // with weights
};

// The model's settings as this run wants them.
absl::StatusOr<model::ModelConfig> ReadConfig(const v1::RunConfig& config, std::string_view json,
                                              const std::string& config_path) {
  ROLLCALL_ASSIGN_OR_RETURN(model::ModelConfig result,
                            model::ModelConfig::FromJson(json, config_path));
  ROLLCALL_RETURN_IF_ERROR(Annotate(result.RequireLanguageModel(), config_path));
  ROLLCALL_RETURN_IF_ERROR(result.UseContext(config.model().context_tokens()));
  return result;
}

absl::StatusOr<Source> OpenSource(const v1::RunConfig& config) {
  const std::string& path = config.model().path();
  const std::string config_path = path + "/config.json";
  Source source;
  if (config.generator().wait_for_weights()) {
    ROLLCALL_ASSIGN_OR_RETURN(const std::string json, ReadFile(config_path));
    ROLLCALL_ASSIGN_OR_RETURN(source.config, ReadConfig(config, json, config_path));
    return source;
  }
  ROLLCALL_ASSIGN_OR_RETURN(source.folder, checkpoint::HfFolder::Open(path));
  ROLLCALL_ASSIGN_OR_RETURN(source.config,
                            ReadConfig(config, source.folder->config_json(), config_path));
  return source;
}

absl::StatusOr<model::Decoder> MakeDecoder(const v1::RunConfig& config, const Source& source) {
  const bool bfloat16 = config.model().dtype() == v1::COMPUTE_DTYPE_BFLOAT16;
  ROLLCALL_ASSIGN_OR_RETURN(const c10::Device device, tensor::OpenDevice(config.model().device()));
  ROLLCALL_ASSIGN_OR_RETURN(
      model::Decoder decoder,
      model::Decoder::Create(source.config, bfloat16 ? at::kBFloat16 : at::kFloat, device));
  if (source.folder.has_value()) {
    ROLLCALL_RETURN_IF_ERROR(checkpoint::LoadParameters(*source.folder, decoder.parameters()));
  }
  return decoder;
}

// Blocks that the budget holds, and no more than all slots can fill.
absl::StatusOr<int64_t> CountBlocks(const v1::GeneratorSection& section,
                                    const model::ModelConfig& config, at::ScalarType dtype) {
  const int64_t block_tokens = section.kv_block_tokens();
  const int64_t block_bytes = model::KvCache::BytesPerBlock(config, block_tokens, dtype);
  const int64_t affordable =
      static_cast<int64_t>(section.kv_cache_bytes() / static_cast<uint64_t>(block_bytes));
  if (affordable == 0) {
    return absl::InvalidArgumentError(absl::StrCat("generator.kv_cache_bytes: one block of ",
                                                   block_tokens, " tokens takes ", block_bytes,
                                                   " bytes, got ", section.kv_cache_bytes()));
  }
  const int64_t per_sample = (config.max_position_embeddings + block_tokens - 1) / block_tokens;
  const int64_t useful = per_sample * section.max_running_samples();
  const int64_t blocks = std::min({affordable, useful, int64_t{1} << 30});
  LogInfo("key/value cache", {{"blocks", blocks},
                              {"block_tokens", block_tokens},
                              {"block_bytes", block_bytes},
                              {"bytes", blocks * block_bytes},
                              {"tokens", blocks * block_tokens},
                              {"full_contexts", blocks / per_sample}});
  return blocks;
}

absl::StatusOr<WeightLayout> LayoutOf(const v1::WeightManifest& manifest) {
  WeightLayout layout;
  layout.architecture_hash = manifest.architecture_hash();
  layout.tokenizer_hash = manifest.tokenizer_hash();
  for (const v1::TensorSpec& spec : manifest.tensors()) {
    const std::optional<wire::DType> dtype = wire::DTypeFromCode(spec.dtype());
    if (!dtype.has_value())
      return absl::InternalError(absl::StrCat(spec.name(), ": unknown dtype"));
    layout.tensors.push_back({.name = spec.name(),
                              .dtype = *dtype,
                              .shape = {spec.shape().begin(), spec.shape().end()}});
  }
  return layout;
}

RequestLimits LimitsOf(const model::ModelConfig& config, const text::Tokenizer* tokenizer) {
  RequestLimits limits;
  limits.vocab_size = static_cast<uint32_t>(config.vocab_size);
  limits.context_length = static_cast<uint32_t>(config.max_position_embeddings);
  limits.has_tokenizer = tokenizer != nullptr;
  if (tokenizer != nullptr) {
    limits.eos_token_ids = tokenizer->eos_ids();
  } else {
    limits.eos_token_ids.assign(config.eos_token_ids.begin(), config.eos_token_ids.end());
  }
  return limits;
}

absl::StatusOr<std::shared_ptr<const text::Tokenizer>> LoadTokenizer(const std::string& folder) {
  auto tokenizer = text::Tokenizer::Load(folder);
  if (absl::IsNotFound(tokenizer.status())) {
    LogWarning("no tokenizer: text and stop strings are not offered",
               {{"reason", tokenizer.status()}});
    return nullptr;
  }
  return tokenizer;
}

}  // namespace

absl::Status CheckConfig(const v1::RunConfig& config) {
  const uint32_t block_tokens = config.generator().kv_block_tokens();
  if (block_tokens % kBlockTile == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "generator.kv_block_tokens: expected a multiple of ", kBlockTile, ", got ", block_tokens));
}

absl::StatusOr<LoadedModel> LoadModel(const v1::RunConfig& config) {
  const v1::GeneratorSection& section = config.generator();
  LoadedModel loaded;
  ROLLCALL_ASSIGN_OR_RETURN(const Source source, OpenSource(config));
  ROLLCALL_ASSIGN_OR_RETURN(loaded.tokenizer, LoadTokenizer(config.model().path()));
  loaded.limits = LimitsOf(source.config, loaded.tokenizer.get());
  ROLLCALL_ASSIGN_OR_RETURN(const std::string tokenizer_hash,
                            model::TokenizerHash(config.model().path()));
  const absl::Status made = tensor::TorchCall([&]() -> absl::Status {
    ROLLCALL_ASSIGN_OR_RETURN(model::Decoder decoder, MakeDecoder(config, source));
    loaded.numerics = model::FingerprintOf(decoder);
    ROLLCALL_ASSIGN_OR_RETURN(v1::WeightManifest manifest, model::ManifestOf(decoder));
    manifest.set_tokenizer_hash(tokenizer_hash);
    ROLLCALL_ASSIGN_OR_RETURN(loaded.layout, LayoutOf(manifest));
    if (source.folder.has_value()) {
      ROLLCALL_ASSIGN_OR_RETURN(std::string hash, model::ManifestHash(manifest));
      loaded.version.emplace().set_manifest_hash(std::move(hash));
    }
    ROLLCALL_ASSIGN_OR_RETURN(const int64_t blocks,
                              CountBlocks(section, source.config, decoder.dtype()));
    ROLLCALL_ASSIGN_OR_RETURN(
        model::KvCache cache,
        model::KvCache::Create(source.config,
                               {.num_blocks = blocks, .block_size = section.kv_block_tokens()},
                               decoder.dtype(), decoder.device()));
    loaded.scheduler = {.num_blocks = static_cast<uint32_t>(blocks),
                        .block_tokens = section.kv_block_tokens(),
                        .max_running_samples = section.max_running_samples(),
                        .max_waiting_samples = section.max_waiting_samples(),
                        .max_step_tokens = section.max_step_tokens()};
    loaded.runner =
        std::make_unique<DecoderRunner>(std::move(decoder), std::move(cache), section.threads());
    return absl::OkStatus();
  });
  ROLLCALL_RETURN_IF_ERROR(made);
  return loaded;
}

}  // namespace rollcall::generator
