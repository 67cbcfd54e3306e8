#include "services/generator/model_loading.h"

#include <ATen/DeviceAccelerator.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/logging.h"
#include "common/base/machine_limits.h"
#include "common/base/status.h"
#include "common/checkpoint/hf_folder.h"
#include "common/checkpoint/parameters.h"
#include "common/config/run_config.h"
#include "common/model/adapter_folder.h"
#include "common/model/decoder.h"
#include "common/model/identity.h"
#include "common/model/kernel_choice.h"
#include "common/model/kv_cache.h"
#include "common/tensor/device.h"
#include "common/tensor/torch_call.h"
#include "common/wire/sha256.h"
#include "services/generator/cache_budget.h"
#include "services/generator/engine/decoder_runner.h"

namespace rollcall::generator {
namespace {

// Tokens that the attention kernels take at once.
constexpr uint32_t kBlockTile = 16;

struct Source {
  model::ModelConfig config;
  std::optional<checkpoint::HfFolder> folder;  // with weights
};

// An adapter goes with weights that are here, whoever brings it.
bool WaitsForAllWeights(const v1::RunConfig& config) {
  return config.generator().wait_for_weights() && !config::AsksAdapter(config.model());
}

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
  if (WaitsForAllWeights(config)) {
    ROLLCALL_ASSIGN_OR_RETURN(const std::string json, ReadFile(config_path));
    ROLLCALL_ASSIGN_OR_RETURN(source.config, ReadConfig(config, json, config_path));
    return source;
  }
  ROLLCALL_ASSIGN_OR_RETURN(source.folder, checkpoint::HfFolder::Open(path));
  ROLLCALL_ASSIGN_OR_RETURN(source.config,
                            ReadConfig(config, source.folder->config_json(), config_path));
  return source;
}

absl::StatusOr<model::Decoder> MakeDecoder(const Source& source, at::ScalarType dtype,
                                           const c10::Device& device) {
  ROLLCALL_ASSIGN_OR_RETURN(model::Decoder decoder,
                            model::Decoder::Create(source.config, dtype, device));
  if (source.folder.has_value()) {
    ROLLCALL_RETURN_IF_ERROR(checkpoint::LoadParameters(*source.folder, decoder.parameters()));
  }
  return decoder;
}

// Copies of the weights that a generator on the CPU holds at most: as loaded, packed for the
// kernels, and staged while a learner pushes the next version; with an adapter, which is small, the
// first two.
uint64_t ServedCopies(const v1::RunConfig& config) {
  return config::AsksAdapter(config.model()) ? 2 : 3;
}
// The reference has no next version.
constexpr uint64_t kReferenceCopies = 2;

at::ScalarType DtypeOf(const v1::RunConfig& config) {
  return config.model().dtype() == v1::COMPUTE_DTYPE_BFLOAT16 ? at::kBFloat16 : at::kFloat;
}

// Bytes that a learner on this box takes a parameter: the weights and their packed copy, the copy
// that is published, float32 masters unless those are the weights, gradients, and two moments. With
// an adapter the weights alone.
uint64_t LearnerBytes(const v1::RunConfig& config, uint64_t width) {
  if (config::AsksAdapter(config.model())) return width;
  return 3 * width + (width == 4 ? 0 : 4) + 4 + 2 * 4;
}

bool IsLocal(const std::string& address) { return absl::StartsWith(address, "unix:"); }

// What the other services of the run will take of this box's memory, as far as the run's
// configuration tells: those on Unix sockets are here. Activations come out of what
// kv_memory_fraction leaves.
void CountOthers(const v1::RunConfig& config, uint64_t parameters, uint64_t width,
                 CacheDemand* demand) {
  uint64_t generators = 0;
  for (const std::string& address : config.generator().addresses()) generators += IsLocal(address);
  if (generators == 0) return;  // it serves on its own
  demand->generators = static_cast<uint32_t>(generators);
  demand->others = (generators - 1) * ServedCopies(config) * parameters * width;
  demand->others += parameters * LearnerBytes(config, width);
  for (const std::string& address : config.reference().addresses()) {
    if (IsLocal(address)) demand->others += kReferenceCopies * parameters * width;
  }
}

absl::StatusOr<CacheBudget> BudgetCache(const v1::RunConfig& config,
                                        const model::ModelConfig& model,
                                        const c10::Device& device) {
  const v1::GeneratorSection& section = config.generator();
  const at::ScalarType dtype = DtypeOf(config);
  const auto parameters = static_cast<uint64_t>(model.ParameterCount());
  const uint64_t width = c10::elementSize(dtype);
  CacheDemand demand{.wanted = section.kv_cache_bytes(),
                     .fraction = section.kv_memory_fraction(),
                     .block = static_cast<uint64_t>(
                         model::KvCache::BytesPerBlock(model, section.kv_block_tokens(), dtype)),
                     .block_tokens = section.kv_block_tokens(),
                     .context = static_cast<uint64_t>(model.max_position_embeddings),
                     .max_running_samples = section.max_running_samples()};
  if (device.is_cpu()) {
    const MachineLimits limits = ReadMachineLimits();
    demand.available = limits.memory_available;
    demand.available_source = limits.memory_source;
    demand.weights = ServedCopies(config) * parameters * width;
    CountOthers(config, parameters, width, &demand);
  } else {
    demand.available = at::accelerator::getMemoryInfo(device.index()).first;
    demand.available_source = "free on the GPU";
    demand.weights = parameters * width;
  }
  ROLLCALL_ASSIGN_OR_RETURN(const CacheBudget budget, PlanCache(demand));
  LogInfo("key/value cache",
          {{"bytes", budget.bytes},
           {"budget", budget.arithmetic},
           {"blocks", budget.blocks},
           {"block_tokens", demand.block_tokens},
           {"block_bytes", demand.block},
           {"tokens", uint64_t{budget.blocks} * demand.block_tokens},
           {"full_contexts", uint64_t{budget.blocks} * demand.block_tokens / demand.context}});
  return budget;
}

// Adds the adapter of model.lora.path, if any. Returns the manifest hash of what then serves.
absl::StatusOr<std::string> ReadAdapter(const v1::RunConfig& config, const std::string& base_hash,
                                        model::Decoder& decoder) {
  const std::string& path = config.model().lora().path();
  if (path.empty()) return base_hash;
  ROLLCALL_RETURN_IF_ERROR(
      Annotate(model::LoadAdapter(path, /*base_manifest_hash=*/"", decoder), "model.lora.path"));
  return model::AdaptedManifestHash(decoder, base_hash);
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
  ROLLCALL_RETURN_IF_ERROR(model::ChooseKernels(config.kernels()));
  ROLLCALL_ASSIGN_OR_RETURN(const Source source, OpenSource(config));
  ROLLCALL_ASSIGN_OR_RETURN(loaded.tokenizer, LoadTokenizer(config.model().path()));
  loaded.limits = LimitsOf(source.config, loaded.tokenizer.get());
  ROLLCALL_ASSIGN_OR_RETURN(const std::string tokenizer_hash,
                            model::TokenizerHash(config.model().path()));
  const absl::Status made = tensor::TorchCall([&]() -> absl::Status {
    ROLLCALL_ASSIGN_OR_RETURN(const c10::Device device,
                              tensor::OpenDevice(config.model().device()));
    // Before the weights are read: what cannot fit is refused at once.
    ROLLCALL_ASSIGN_OR_RETURN(const CacheBudget budget, BudgetCache(config, source.config, device));
    ROLLCALL_ASSIGN_OR_RETURN(model::Decoder decoder, MakeDecoder(source, DtypeOf(config), device));
    loaded.numerics = model::FingerprintOf(decoder);
    ROLLCALL_ASSIGN_OR_RETURN(v1::WeightManifest manifest, model::ManifestOf(decoder));
    manifest.set_tokenizer_hash(tokenizer_hash);
    ROLLCALL_ASSIGN_OR_RETURN(loaded.layout, LayoutOf(manifest));
    loaded.layout.model = source.config;
    if (source.folder.has_value()) {
      ROLLCALL_ASSIGN_OR_RETURN(loaded.layout.base_manifest_hash, model::ManifestHash(manifest));
      if (!section.wait_for_weights()) {
        ROLLCALL_ASSIGN_OR_RETURN(std::string hash,
                                  ReadAdapter(config, loaded.layout.base_manifest_hash, decoder));
        loaded.version.emplace().set_manifest_hash(std::move(hash));
      }
    }
    ROLLCALL_ASSIGN_OR_RETURN(
        model::KvCache cache,
        model::KvCache::Create(
            source.config, {.num_blocks = budget.blocks, .block_size = section.kv_block_tokens()},
            decoder.dtype(), decoder.device()));
    loaded.scheduler = {.num_blocks = budget.blocks,
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
