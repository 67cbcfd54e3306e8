// The trainer's state outside the process: snapshots to publish, checkpoints to resume from.
#include <ATen/core/grad_mode.h>

#include <cstring>
#include <filesystem>
#include <map>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/checkpoint/hf_folder.h"
#include "common/checkpoint/hf_writer.h"
#include "common/checkpoint/parameters.h"
#include "common/model/adapter_folder.h"
#include "common/model/identity.h"
#include "common/model/peft_config.h"
#include "common/tensor/bridge.h"
#include "common/tensor/torch_call.h"
#include "services/learner/trainer/saved_parameters.h"
#include "services/learner/trainer/trainer.h"

namespace rollcall::learner {
namespace {

// Key of LearnerCheckpoint.algorithm_state.
constexpr char kKlCoefficient[] = "kl_coefficient";

std::string ModelFolder(const std::string& folder) { return folder + "/model"; }
std::string AdapterFolder(const std::string& folder) { return folder + "/adapter"; }
std::string OptimizerFile(const std::string& folder) { return folder + "/optimizer.safetensors"; }
// Names within the folder.
constexpr char kCriticFile[] = "critic.safetensors";
constexpr char kCriticOptimizerFile[] = "critic_optimizer.safetensors";
constexpr char kReferenceFile[] = "reference.safetensors";

checkpoint::HfFolderSpec ModelSpec(const model::Decoder& decoder, const v1::RunConfig& config) {
  return {.config_json = decoder.config().ToJson(),
          .tensors = decoder.parameters(),
          .dtype = std::nullopt,
          .source_folder = config.model().path()};
}

}  // namespace

absl::StatusOr<WeightSnapshotPtr> Trainer::Snapshot() const {
  return tensor::TorchCall([&]() -> absl::StatusOr<WeightSnapshotPtr> {
    auto snapshot = std::make_shared<WeightSnapshot>();
    snapshot->step = step_;
    if (decoder_.lora() != nullptr) {
      snapshot->adapter.emplace(
          WeightSnapshot::Adapter{.base_manifest_hash = base_manifest_hash_,
                                  .config = model::CanonicalAdapterConfig(*decoder_.lora())});
    }
    for (const auto& [name, parameter] : decoder_.trainable_parameters()) {
      WeightSnapshot::Tensor copy;
      copy.name = name;
      ROLLCALL_ASSIGN_OR_RETURN(copy.dtype, tensor::DTypeOf(parameter.scalar_type()));
      for (const int64_t dimension : parameter.sizes()) {
        copy.shape.push_back(static_cast<uint64_t>(dimension));
      }
      ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor host, tensor::HostContiguous(parameter));
      const std::string_view bytes = tensor::BytesOf(host);
      copy.bytes.resize(bytes.size());
      std::memcpy(copy.bytes.data(), bytes.data(), bytes.size());
      snapshot->tensors.push_back(std::move(copy));
    }
    return WeightSnapshotPtr(std::move(snapshot));
  });
}

absl::Status Trainer::ExportModel(const std::string& folder) const {
  return tensor::TorchCall([&]() -> absl::Status {
    if (decoder_.lora() != nullptr) {
      return model::WriteAdapterFolder(folder, decoder_, base_manifest_hash_,
                                       config_.model().path());
    }
    return checkpoint::WriteHfFolder(folder, ModelSpec(decoder_, config_));
  });
}

absl::Status Trainer::ExportMerged(const std::string& folder) const {
  if (decoder_.lora() == nullptr) return absl::FailedPreconditionError("the model has no adapter");
  return tensor::TorchCall([&]() -> absl::Status {
    checkpoint::HfFolderSpec spec = ModelSpec(decoder_, config_);
    spec.tensors = decoder_.MergedParameters();
    return checkpoint::WriteHfFolder(folder, spec);
  });
}

absl::Status Trainer::ExportCritic(const std::string& folder) const {
  if (critic_ == nullptr) return absl::FailedPreconditionError("the objective has no critic");
  return tensor::TorchCall([&]() -> absl::Status {
    return checkpoint::WriteHfFolder(folder, ModelSpec(critic_->decoder(), config_));
  });
}

absl::Status Trainer::SaveState(const std::string& folder) const {
  return tensor::TorchCall([&]() -> absl::Status {
    ROLLCALL_ASSIGN_OR_RETURN(const auto state, optimizer_.GatherState());
    const bool adapter = decoder_.lora() != nullptr;
    const std::string weights = adapter ? AdapterFolder(folder) : ModelFolder(folder);
    ROLLCALL_RETURN_IF_ERROR(MakeDirectories(weights));
    ROLLCALL_RETURN_IF_ERROR(adapter
                                 ? model::WriteAdapterFiles(weights, decoder_, base_manifest_hash_)
                                 : checkpoint::WriteHfFiles(weights, ModelSpec(decoder_, config_)));
    ROLLCALL_RETURN_IF_ERROR(checkpoint::SaveTensors(OptimizerFile(folder), state));
    if (critic_ != nullptr) {
      ROLLCALL_RETURN_IF_ERROR(critic_->Save(absl::StrCat(folder, "/", kCriticFile),
                                             absl::StrCat(folder, "/", kCriticOptimizerFile)));
    }
    return reference_.has_value()
               ? checkpoint::SaveTensors(absl::StrCat(folder, "/", kReferenceFile),
                                         reference_->trainable_parameters())
               : absl::OkStatus();
  });
}

absl::Status Trainer::HandOverState() const {
  return tensor::TorchCall([&]() -> absl::Status {
    ROLLCALL_RETURN_IF_ERROR(optimizer_.GatherState().status());
    return critic_ == nullptr ? absl::OkStatus() : critic_->Save("", "");
  });
}

std::vector<std::string> Trainer::ExtraStateFiles() const {
  std::vector<std::string> files;
  if (critic_ != nullptr) files = {kCriticFile, kCriticOptimizerFile};
  if (reference_.has_value()) files.push_back(kReferenceFile);
  return files;
}

absl::Status Trainer::LoadCompanions(const std::string& folder) {
  if (critic_ != nullptr) {
    ROLLCALL_RETURN_IF_ERROR(critic_->Load(absl::StrCat(folder, "/", kCriticFile),
                                           absl::StrCat(folder, "/", kCriticOptimizerFile)));
  }
  if (!reference_.has_value()) return absl::OkStatus();
  ROLLCALL_RETURN_IF_ERROR(LoadSavedParameters(absl::StrCat(folder, "/", kReferenceFile),
                                               reference_->trainable_parameters()));
  reference_->InvalidatePacked();
  return absl::OkStatus();
}

absl::StatusOr<std::string> Trainer::ManifestHash() const {
  return decoder_.lora() == nullptr ? model::PolicyManifestHash(decoder_)
                                    : model::AdaptedManifestHash(decoder_, base_manifest_hash_);
}

absl::Status Trainer::LoadWeights(const std::string& folder) {
  if (decoder_.lora() != nullptr) {
    return model::LoadAdapterTensors(AdapterFolder(folder), base_manifest_hash_, decoder_);
  }
  ROLLCALL_ASSIGN_OR_RETURN(const auto model, checkpoint::HfFolder::Open(ModelFolder(folder)));
  return checkpoint::LoadParameters(model, decoder_.parameters());
}

absl::Status Trainer::CheckKind(const std::string& folder) const {
  const bool adapter = std::filesystem::exists(AdapterFolder(folder));
  if (adapter == (decoder_.lora() != nullptr)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(folder, adapter ? ": holds an adapter, and model.lora asks for none"
                                   : ": holds whole weights, and model.lora asks for an adapter"));
}

absl::Status Trainer::FillRecord(v1::LearnerCheckpoint& record) const {
  return tensor::TorchCall([&]() -> absl::Status {
    ROLLCALL_ASSIGN_OR_RETURN(*record.mutable_version()->mutable_manifest_hash(), ManifestHash());
    record.mutable_version()->set_step(step_);
    *record.mutable_numerics() = model::FingerprintOf(decoder_);
    record.set_step(step_);
    record.set_consecutive_skipped_steps(consecutive_skipped_);
    record.set_skipped_steps(skipped_);
    record.set_trained_tokens(trained_tokens_);
    if (objective_.kl_target > 0) {
      (*record.mutable_algorithm_state())[kKlCoefficient] = kl_coefficient_;
    }
    return absl::OkStatus();
  });
}

absl::Status Trainer::LoadState(const std::string& folder, const v1::LearnerCheckpoint& record) {
  return tensor::TorchCall([&]() -> absl::Status {
    ROLLCALL_RETURN_IF_ERROR(CheckKind(folder));
    ROLLCALL_ASSIGN_OR_RETURN(const auto state, checkpoint::LoadTensors(OptimizerFile(folder)));
    ROLLCALL_RETURN_IF_ERROR(Annotate(optimizer_.Check(state), OptimizerFile(folder)));
    ROLLCALL_RETURN_IF_ERROR(LoadCompanions(folder));
    ROLLCALL_RETURN_IF_ERROR(LoadWeights(folder));
    optimizer_.Restore(state);
    decoder_.InvalidatePacked();
    decoder_.ZeroGrad();
    ROLLCALL_RETURN_IF_ERROR(CheckHash(record, folder));
    TakeCounters(record);
    return absl::OkStatus();
  });
}

absl::Status Trainer::CheckHash(const v1::LearnerCheckpoint& record,
                                const std::string& source) const {
  ROLLCALL_ASSIGN_OR_RETURN(const std::string hash, ManifestHash());
  if (hash == record.version().manifest_hash()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(
      source, ": the weights have another manifest hash than the checkpoint's record"));
}

void Trainer::TakeCounters(const v1::LearnerCheckpoint& record) {
  step_ = record.step();
  consecutive_skipped_ = record.consecutive_skipped_steps();
  skipped_ = record.skipped_steps();
  trained_tokens_ = record.trained_tokens();
  const auto coefficient = record.algorithm_state().find(kKlCoefficient);
  if (objective_.kl_target > 0 && coefficient != record.algorithm_state().end()) {
    kl_coefficient_ = coefficient->second;
  }
}

absl::Status Trainer::ShareState(const std::string& loaded_from) {
  if (group_->size() == 1) return absl::OkStatus();
  return tensor::TorchCall([&]() -> absl::Status {
    const bool gives = group_->rank() == 0;
    v1::LearnerCheckpoint record;
    if (gives) ROLLCALL_RETURN_IF_ERROR(FillRecord(record));
    // A first byte for whether there is an optimizer to share, then the record.
    std::string header = (loaded_from.empty() ? "0" : "1") + record.SerializeAsString();
    ROLLCALL_RETURN_IF_ERROR(group_->Broadcast(header));
    const bool resumed = header[0] == '1';
    if (!record.ParseFromString(header.substr(1))) {
      return absl::DataLossError("rank 0 sent something else than its record");
    }
    ROLLCALL_RETURN_IF_ERROR(ShareParameters(*group_, decoder_));
    if (!gives) TakeCounters(record);
    ROLLCALL_RETURN_IF_ERROR(CheckHash(record, "from rank 0"));
    if (resumed) {
      std::map<std::string, at::Tensor> state;
      if (gives) {
        ROLLCALL_ASSIGN_OR_RETURN(state, checkpoint::LoadTensors(OptimizerFile(loaded_from)));
      }
      ROLLCALL_RETURN_IF_ERROR(optimizer_.Scatter(state));
    }
    if (critic_ != nullptr) {
      ROLLCALL_RETURN_IF_ERROR(
          critic_->Share(resumed, absl::StrCat(loaded_from, "/", kCriticOptimizerFile)));
    }
    return reference_.has_value() ? ShareParameters(*group_, *reference_) : absl::OkStatus();
  });
}

}  // namespace rollcall::learner
