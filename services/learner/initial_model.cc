#include "services/learner/initial_model.h"

#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/checkpoint/hf_folder.h"
#include "common/checkpoint/parameters.h"
#include "common/config/algorithm_presets.h"
#include "common/model/adapter_folder.h"
#include "common/model/kernel_choice.h"
#include "common/model/score_head.h"
#include "common/tensor/compute_threads.h"
#include "common/tensor/device.h"
#include "common/tensor/torch_call.h"

namespace rollcall::learner {
namespace {

using Json = nlohmann::json;

at::ScalarType ComputeDtype(const v1::RunConfig& config) {
  return config.model().dtype() == v1::COMPUTE_DTYPE_BFLOAT16 ? at::kBFloat16 : at::kFloat;
}

absl::StatusOr<model::ModelConfig> ReadModelConfig(const checkpoint::HfFolder& folder,
                                                   const std::string& json,
                                                   const v1::RunConfig& config) {
  ROLLCALL_ASSIGN_OR_RETURN(model::ModelConfig model,
                            model::ModelConfig::FromJson(json, folder.path() + "/config.json"));
  ROLLCALL_RETURN_IF_ERROR(model.UseContext(config.model().context_tokens()));
  return model;
}

absl::StatusOr<model::Decoder> LoadLanguageModel(const v1::RunConfig& config,
                                                 const std::string& path) {
  ROLLCALL_ASSIGN_OR_RETURN(const c10::Device device, tensor::OpenDevice(config.model().device()));
  ROLLCALL_ASSIGN_OR_RETURN(const checkpoint::HfFolder folder, checkpoint::HfFolder::Open(path));
  ROLLCALL_ASSIGN_OR_RETURN(const model::ModelConfig model,
                            ReadModelConfig(folder, folder.config_json(), config));
  ROLLCALL_RETURN_IF_ERROR(Annotate(model.RequireLanguageModel(), folder.path() + "/config.json"));
  ROLLCALL_ASSIGN_OR_RETURN(model::Decoder decoder,
                            model::Decoder::Create(model, ComputeDtype(config), device));
  ROLLCALL_RETURN_IF_ERROR(checkpoint::LoadParameters(folder, decoder.parameters()));
  decoder.InvalidatePacked();
  return decoder;
}

// A model of any head.
absl::StatusOr<model::Decoder> LoadAsItIs(const checkpoint::HfFolder& folder,
                                          const model::ModelConfig& model,
                                          const v1::RunConfig& config) {
  ROLLCALL_ASSIGN_OR_RETURN(const c10::Device device, tensor::OpenDevice(config.model().device()));
  ROLLCALL_ASSIGN_OR_RETURN(model::Decoder decoder,
                            model::Decoder::Create(model, ComputeDtype(config), device));
  ROLLCALL_RETURN_IF_ERROR(checkpoint::LoadParameters(folder, decoder.parameters()));
  decoder.InvalidatePacked();
  return decoder;
}

// A reward model as it is, or a language model with a head of zeros in place of its own.
absl::StatusOr<model::Decoder> LoadRewardModel(const v1::RunConfig& config) {
  ROLLCALL_ASSIGN_OR_RETURN(const checkpoint::HfFolder folder,
                            checkpoint::HfFolder::Open(config.model().path()));
  ROLLCALL_ASSIGN_OR_RETURN(const model::ModelConfig model,
                            ReadModelConfig(folder, folder.config_json(), config));
  if (model.head == model::Head::kSequenceScore) return LoadAsItIs(folder, model, config);
  ROLLCALL_ASSIGN_OR_RETURN(const model::Decoder body, LoadLanguageModel(config, folder.path()));
  ROLLCALL_ASSIGN_OR_RETURN(const model::ModelConfig scored,
                            model::WithScoreHead(model, model::Head::kSequenceScore));
  return CriticFromBody(body, scored);
}

absl::StatusOr<model::Decoder> Load(const v1::RunConfig& config) {
  tensor::StartComputeThreads(config.learner().threads(), tensor::ModelThread::kMain);
  ROLLCALL_RETURN_IF_ERROR(model::ChooseKernels(config.kernels()));
  ROLLCALL_ASSIGN_OR_RETURN(model::Decoder decoder,
                            config.stage() == v1::STAGE_REWARD_MODEL
                                ? LoadRewardModel(config)
                                : LoadLanguageModel(config, config.model().path()));
  ROLLCALL_RETURN_IF_ERROR(model::AddConfiguredAdapter(config.model(), config.seed(), decoder));
  decoder.SetActivationCheckpointing(config.learner().activation_checkpointing());
  return decoder;
}

// The config.json of a value model with the body of the language model that `json` describes.
std::string WithValueHead(const std::string& json) {
  Json object = Json::parse(json);
  for (Json& name : object["architectures"]) {
    std::string text = name.get<std::string>();
    const size_t at = text.find("ForCausalLM");
    if (at != std::string::npos) text.replace(at, std::string::npos, "ForTokenClassification");
    name = text;
  }
  object["num_labels"] = 1;
  object["id2label"] = {{"0", "value"}};
  object["token_classification_bias"] = false;
  return object.dump();
}

absl::StatusOr<model::Decoder> LoadCritic(const v1::RunConfig& config) {
  const std::string& own = config.learner().critic().path();
  ROLLCALL_ASSIGN_OR_RETURN(const checkpoint::HfFolder folder,
                            checkpoint::HfFolder::Open(own.empty() ? config.model().path() : own));
  ROLLCALL_ASSIGN_OR_RETURN(model::ModelConfig model,
                            ReadModelConfig(folder, folder.config_json(), config));
  if (model.head != model::Head::kLanguageModel) {
    return LoadAsItIs(folder, model, config);
  }
  ROLLCALL_ASSIGN_OR_RETURN(const model::Decoder body, LoadLanguageModel(config, folder.path()));
  ROLLCALL_ASSIGN_OR_RETURN(model,
                            ReadModelConfig(folder, WithValueHead(folder.config_json()), config));
  if (model.head == model::Head::kLanguageModel) {
    return absl::InvalidArgumentError(absl::StrCat(
        folder.path(), "/config.json: architectures: names no …ForCausalLM to give a value head"));
  }
  return CriticFromBody(body, model);
}

absl::StatusOr<TrainerCompanions> LoadAll(const v1::RunConfig& config,
                                          const model::ModelConfig& policy) {
  const v1::AlgorithmSection& algorithm = config.algorithm();
  TrainerCompanions companions;
  if (config.stage() != v1::STAGE_RL) return companions;
  const auto check = [&](const model::Decoder& decoder, const char* what) -> absl::Status {
    if (decoder.config().vocab_size == policy.vocab_size) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(what, ": has a vocabulary of ",
                                                   decoder.config().vocab_size,
                                                   ", the policy one of ", policy.vocab_size));
  };
  if (algorithm.advantage_baseline() == v1::ADVANTAGE_BASELINE_CRITIC) {
    ROLLCALL_ASSIGN_OR_RETURN(companions.critic, LoadCritic(config));
    ROLLCALL_RETURN_IF_ERROR(check(*companions.critic, "learner.critic.path"));
    companions.critic->SetActivationCheckpointing(config.learner().activation_checkpointing());
  }
  if (config::AsksReference(algorithm) && algorithm.reference_refresh_steps() > 0) {
    const std::string& own = config.reference().model_path();
    ROLLCALL_ASSIGN_OR_RETURN(companions.reference,
                              LoadLanguageModel(config, own.empty() ? config.model().path() : own));
    ROLLCALL_RETURN_IF_ERROR(check(*companions.reference, "reference.model_path"));
  }
  return companions;
}

}  // namespace

absl::StatusOr<model::Decoder> LoadInitialModel(const v1::RunConfig& config) {
  return tensor::TorchCall([&] { return Load(config); });
}

absl::StatusOr<TrainerCompanions> LoadCompanions(const v1::RunConfig& config,
                                                 const model::ModelConfig& policy) {
  return tensor::TorchCall([&] { return LoadAll(config, policy); });
}

}  // namespace rollcall::learner
