#include "services/cli/explain/model_memory.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/config/algorithm_presets.h"
#include "common/config/preference_rules.h"
#include "services/cli/explain/trained_part.h"

namespace rollcall::explain {
namespace {

using inspect::Grouped;
using inspect::MemoryAssumptions;
using inspect::MemoryEstimate;
using inspect::MemoryItem;

MemoryAssumptions Assume(const v1::RunConfig& config) {
  return {.dtype = config.model().dtype() == v1::COMPUTE_DTYPE_BFLOAT16 ? wire::DType::kBFloat16
                                                                        : wire::DType::kFloat32,
          .packed_matrices = !absl::StartsWith(config.model().device(), "cuda")};
}

// Weights alone: a model that is read and never trained.
MemoryEstimate FrozenMemory(const model::ModelConfig& config,
                            const MemoryAssumptions& assumptions) {
  MemoryEstimate estimate = inspect::ServingMemory(config, assumptions);
  std::erase_if(estimate.items, [](const MemoryItem& item) { return item.bytes == 0; });
  return estimate;
}

MemoryItem CacheItem(const v1::GeneratorSection& generator, const model::ModelConfig& config,
                     const MemoryAssumptions& assumptions) {
  const auto bytes = static_cast<int64_t>(generator.kv_cache_bytes());
  const int64_t token =
      config.KvElementsPerToken() * static_cast<int64_t>(wire::SizeOf(assumptions.dtype));
  if (bytes == 0) {
    return {"KV cache",
            absl::StrCat(generator.kv_memory_fraction(), " of the memory that is left, at ",
                         Grouped(token), " B a token"),
            0};
  }
  return {"KV cache",
          absl::StrCat("generator.kv_cache_bytes, ", Grouped(bytes / std::max<int64_t>(token, 1)),
                       " tokens of ", Grouped(token), " B"),
          bytes};
}

void GiveHead(model::Head head, model::ModelConfig& model) {
  if (head == model::Head::kLanguageModel) return;
  model.head = head;
  model.tie_word_embeddings = false;
}

class Models {
 public:
  explicit Models(const v1::RunConfig& config) : config_(config), assumptions_(Assume(config)) {}

  std::vector<ModelMemory> All() {
    const v1::Stage stage = config_.stage();
    const bool rl = stage == v1::STAGE_RL;
    const bool scores_itself =
        stage == v1::STAGE_REWARD_MODEL || config::LearnsFromPreferences(stage);
    const bool evaluates = !scores_itself && config_.data().evaluation_size() > 0 &&
                           config_.reward().verifiers_size() > 0;
    if (stage == v1::STAGE_EVAL) {
      Add("learner", config_.model().path(), 1, FrozenMemory);
    } else if (stage == v1::STAGE_REWARD_MODEL) {
      AddTrained("learner: reward model", config_.model().path(), model::Head::kSequenceScore);
    } else {
      AddTrained("learner: policy", config_.model().path(), model::Head::kLanguageModel);
    }
    const v1::AlgorithmSection& algorithm = config_.algorithm();
    if (rl && algorithm.advantage_baseline() == v1::ADVANTAGE_BASELINE_CRITIC) {
      const std::string& path = config_.learner().critic().path();
      AddTrained("learner: critic", path.empty() ? config_.model().path() : path,
                 model::Head::kTokenScore);
    }
    if (rl || stage == v1::STAGE_EVAL || evaluates) {
      AddGenerators();
      AddRewardModels();
    }
    if ((rl && config::AsksReference(algorithm)) || config::NeedsReferenceService(config_)) {
      const std::string& path = config_.reference().model_path();
      const bool service = config::NeedsReferenceService(config_);
      Add(service ? "reference" : "learner: reference",
          path.empty() ? config_.model().path() : path,
          service ? std::max(config_.reference().addresses_size(), 1) : 1, FrozenMemory);
    }
    return std::move(models_);
  }

 private:
  template <typename Estimate>
  void Add(const std::string& name, const std::string& path, int copies, Estimate estimate) {
    ModelMemory memory{.name = name, .path = path, .copies = static_cast<uint32_t>(copies)};
    absl::StatusOr<MemoryEstimate> known = absl::UnknownError("");
    if (const auto model = ReadModelConfig(path); model.ok()) {
      known = estimate(*model, assumptions_);
    } else {
      known = model.status();
    }
    if (known.ok()) {
      memory.estimate = *std::move(known);
    } else {
      memory.unknown = std::string(known.status().message());
    }
    models_.push_back(std::move(memory));
  }

  void AddTrained(const std::string& name, const std::string& path, model::Head head) {
    const v1::LearnerSection& learner = config_.learner();
    const bool published = config_.stage() == v1::STAGE_RL && head == model::Head::kLanguageModel;
    Add(name, path, static_cast<int>(std::max(learner.ranks(), 1u)),
        [&](model::ModelConfig model,
            MemoryAssumptions assumptions) -> absl::StatusOr<MemoryEstimate> {
          GiveHead(head, model);
          if (head != model::Head::kTokenScore) {
            ROLLCALL_ASSIGN_OR_RETURN(assumptions.adapter, AdapterOf(config_, model));
          }
          assumptions.tokens = learner.micro_batch_tokens();
          assumptions.publishes = published;
          assumptions.optimizer_shards = std::max(learner.ranks(), 1u);
          assumptions.activation_checkpointing = learner.activation_checkpointing();
          return inspect::TrainingMemory(model, assumptions);
        });
  }

  void AddGenerators() {
    const v1::GeneratorSection& generator = config_.generator();
    const int given = generator.addresses_size();
    Add("generator", config_.model().path(),
        given > 0 ? given : static_cast<int>(std::max(generator.replicas(), 1u)),
        [&](const model::ModelConfig& model, const MemoryAssumptions& assumptions) {
          MemoryEstimate estimate = FrozenMemory(model, assumptions);
          estimate.items.push_back(CacheItem(generator, model, assumptions));
          return estimate;
        });
  }

  void AddRewardModels() {
    for (const v1::VerifierConfig& verifier : config_.reward().verifiers()) {
      if (!verifier.has_reward_model()) continue;
      Add(absl::StrCat("reward model ", verifier.name()), verifier.reward_model().path(), 1,
          FrozenMemory);
    }
  }

  const v1::RunConfig& config_;
  const MemoryAssumptions assumptions_;
  std::vector<ModelMemory> models_;
};

}  // namespace

absl::StatusOr<model::ModelConfig> ReadModelConfig(const std::string& folder) {
  const std::string file = folder + "/config.json";
  ROLLCALL_ASSIGN_OR_RETURN(const std::string json, ReadFile(file));
  return model::ModelConfig::FromJson(json, file);
}

absl::StatusOr<model::ModelConfig> ReadTrainedConfig(const v1::RunConfig& config) {
  ROLLCALL_ASSIGN_OR_RETURN(model::ModelConfig model, ReadModelConfig(config.model().path()));
  if (config.stage() == v1::STAGE_REWARD_MODEL) GiveHead(model::Head::kSequenceScore, model);
  return model;
}

std::vector<ModelMemory> EstimateModels(const v1::RunConfig& config) {
  return Models(config).All();
}

}  // namespace rollcall::explain
