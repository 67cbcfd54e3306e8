#include "common/model/adapter_folder.h"

#include <filesystem>
#include <optional>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/checkpoint/folder_transaction.h"
#include "common/checkpoint/hf_writer.h"
#include "common/checkpoint/parameters.h"
#include "common/checkpoint/safetensors.h"
#include "common/model/identity.h"
#include "common/model/peft_config.h"
#include "common/wire/sha256.h"

namespace rollcall::model {
namespace {

// Key of the tensors file's metadata, which PEFT passes over: hexadecimal digits of the base's
// manifest hash.
constexpr char kBaseKey[] = "rollcall_base_manifest_sha256";

std::string InFolder(const std::string& folder, const char* file) {
  return absl::StrCat(folder, "/", file);
}

std::string Hex(const std::string& hash) {
  const std::optional<wire::Sha256Digest> digest = wire::DigestFromBytes(hash);
  return digest ? wire::ToHex(*digest) : "";
}

absl::Status CheckBase(const std::string& file, const std::string& trained_on,
                       const std::string& base_manifest_hash) {
  const std::string base = Hex(base_manifest_hash);
  if (base.empty() || trained_on == base) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      file, ": the adapter was trained on other base weights (manifest ", trained_on.substr(0, 16),
      "…) than these (", base.substr(0, 16), "…): another model, or another dtype"));
}

absl::Status FillAdapter(const std::string& folder, const std::string& base_manifest_hash,
                         const Decoder& decoder) {
  const std::string path = InFolder(folder, kAdapterTensorsFile);
  if (!std::filesystem::exists(path) &&
      std::filesystem::exists(InFolder(folder, "adapter_model.bin"))) {
    return absl::NotFoundError(absl::StrCat(
        path, ": not there; the folder has a pickled adapter_model.bin, which is not read"));
  }
  ROLLCALL_ASSIGN_OR_RETURN(const auto file, checkpoint::SafetensorsFile::Open(path));
  const auto base = file->metadata().find(kBaseKey);
  if (base != file->metadata().end()) {
    ROLLCALL_RETURN_IF_ERROR(CheckBase(path, base->second, base_manifest_hash));
  }
  return checkpoint::FillFromFile(*file, decoder.adapter_parameters());
}

LoraConfig FromSection(const v1::ModelSection& section) {
  const v1::LoraSection& lora = section.lora();
  return {.r = lora.r(),
          .alpha = lora.alpha(),
          .rslora = lora.rslora(),
          .target_modules = {lora.target_modules().begin(), lora.target_modules().end()},
          .base_model = section.path()};
}

}  // namespace

absl::StatusOr<LoraConfig> ReadAdapterConfig(const std::string& folder, const ModelConfig& model) {
  const std::string file = InFolder(folder, kAdapterConfigFile);
  ROLLCALL_ASSIGN_OR_RETURN(const std::string json, ReadFile(file));
  return ReadPeftConfig(json, file, model);
}

absl::Status LoadAdapter(const std::string& folder, const std::string& base_manifest_hash,
                         Decoder& decoder) {
  ROLLCALL_ASSIGN_OR_RETURN(const LoraConfig lora, ReadAdapterConfig(folder, decoder.config()));
  ROLLCALL_RETURN_IF_ERROR(decoder.AddAdapter(lora));
  const absl::Status status = FillAdapter(folder, base_manifest_hash, decoder);
  if (!status.ok()) decoder.RemoveAdapter();
  return status;
}

absl::Status LoadAdapterTensors(const std::string& folder, const std::string& base_manifest_hash,
                                Decoder& decoder) {
  ROLLCALL_ASSIGN_OR_RETURN(const LoraConfig lora, ReadAdapterConfig(folder, decoder.config()));
  if (decoder.lora() == nullptr || !lora.SameFunction(*decoder.lora())) {
    return absl::FailedPreconditionError(
        absl::StrCat(InFolder(folder, kAdapterConfigFile),
                     ": is of another adapter: ", CanonicalAdapterConfig(lora), " instead of ",
                     decoder.lora() == nullptr ? "none" : CanonicalAdapterConfig(*decoder.lora())));
  }
  return FillAdapter(folder, base_manifest_hash, decoder);
}

absl::Status WriteAdapterFiles(const std::string& folder, const Decoder& decoder,
                               const std::string& base_manifest_hash) {
  if (decoder.lora() == nullptr) return absl::FailedPreconditionError("the model has no adapter");
  ROLLCALL_RETURN_IF_ERROR(
      WriteFileAtomically(InFolder(folder, kAdapterConfigFile),
                          PeftConfigJson(*decoder.lora(), decoder.config().head)));
  return checkpoint::SaveTensors(InFolder(folder, kAdapterTensorsFile),
                                 decoder.adapter_parameters(),
                                 {{"format", "pt"}, {kBaseKey, Hex(base_manifest_hash)}});
}

absl::Status WriteAdapterFolder(const std::string& path, const Decoder& decoder,
                                const std::string& base_manifest_hash,
                                const std::string& source_folder) {
  ROLLCALL_ASSIGN_OR_RETURN(auto transaction, checkpoint::FolderTransaction::Begin(path));
  ROLLCALL_RETURN_IF_ERROR(WriteAdapterFiles(transaction->path(), decoder, base_manifest_hash));
  ROLLCALL_RETURN_IF_ERROR(checkpoint::CarryTokenizerFiles(source_folder, transaction->path()));
  return transaction->Commit();
}

absl::Status AddConfiguredAdapter(const v1::ModelSection& section, uint64_t seed,
                                  Decoder& decoder) {
  const v1::LoraSection& lora = section.lora();
  if (lora.r() == 0 && lora.path().empty()) return absl::OkStatus();
  if (lora.path().empty()) {
    ROLLCALL_RETURN_IF_ERROR(Annotate(decoder.AddAdapter(FromSection(section)), "model.lora"));
    decoder.InitializeAdapter(seed);
    return absl::OkStatus();
  }
  ROLLCALL_RETURN_IF_ERROR(Annotate(LoadAdapter(lora.path(), "", decoder), "model.lora.path"));
  if (lora.r() == 0 || lora.r() == decoder.lora()->r) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("model.lora.r: ", lora.r(), ", but the adapter of model.lora.path has ",
                   decoder.lora()->r, "; its own settings hold, so leave r out"));
}

}  // namespace rollcall::model
