#include "services/generator/weights/weight_staging.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <new>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "common/model/peft_config.h"
#include "common/wire/dtype.h"

namespace rollcall::generator {
namespace {

constexpr uint64_t kMaxChunkBytes = uint64_t{4} << 20;
constexpr size_t kMaxRunIdLength = 128;

std::string Describe(const v1::PolicyVersion& version) {
  return absl::StrCat("run '", version.run_id(), "' lineage ", version.lineage(), " step ",
                      version.step());
}

bool Equal(const v1::PolicyVersion& a, const v1::PolicyVersion& b) {
  return a.run_id() == b.run_id() && a.lineage() == b.lineage() && a.step() == b.step() &&
         a.manifest_hash() == b.manifest_hash();
}

bool ValidRunId(std::string_view run_id) {
  return !run_id.empty() && run_id.size() <= kMaxRunIdLength &&
         std::all_of(run_id.begin(), run_id.end(), [](unsigned char c) {
           return std::isalnum(c) || c == '.' || c == '_' || c == '-';
         });
}

absl::Status CheckVersionFields(const v1::PolicyVersion& version) {
  if (!ValidRunId(version.run_id())) {
    return absl::InvalidArgumentError(
        "version.run_id: expected 1 to 128 characters of [A-Za-z0-9._-]");
  }
  if (version.lineage() == 0) {
    return absl::InvalidArgumentError("version.lineage: expected at least 1, got 0");
  }
  if (version.manifest_hash().size() != sizeof(wire::Sha256Digest)) {
    return absl::InvalidArgumentError(absl::StrCat("version.manifest_hash: expected 32 bytes, got ",
                                                   version.manifest_hash().size()));
  }
  return absl::OkStatus();
}

std::string ShapeText(const google::protobuf::RepeatedField<uint64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

wire::TensorEntry EntryOf(const v1::TensorSpec& spec) {
  wire::TensorEntry entry;
  entry.name = spec.name();
  entry.dtype = wire::DTypeFromCode(spec.dtype()).value_or(wire::DType::kFloat32);
  entry.shape.assign(spec.shape().begin(), spec.shape().end());
  entry.sha256 = wire::DigestFromBytes(spec.sha256()).value_or(wire::Sha256Digest{});
  return entry;
}

// What is wrong with one tensor of a manifest; empty: nothing.
std::string Mismatch(const v1::TensorSpec& spec, const wire::TensorEntry& expected) {
  const std::optional<wire::DType> dtype = wire::DTypeFromCode(spec.dtype());
  if (dtype != expected.dtype) {
    return absl::StrCat(spec.name(), ": dtype ",
                        dtype ? std::string(wire::Name(*dtype)) : "unspecified", ", expected ",
                        std::string(wire::Name(expected.dtype)));
  }
  if (!std::equal(spec.shape().begin(), spec.shape().end(), expected.shape.begin(),
                  expected.shape.end(),
                  [](uint64_t a, int64_t b) { return a == static_cast<uint64_t>(b); })) {
    return absl::StrCat(spec.name(), ": shape ", ShapeText(spec.shape()), ", expected [",
                        absl::StrJoin(expected.shape, ", "), "]");
  }
  if (spec.sha256().size() != sizeof(wire::Sha256Digest)) {
    return absl::StrCat(spec.name(), ": sha256 of ", spec.sha256().size(), " bytes, expected 32");
  }
  return "";
}

// Whether the manifest lists `tensors`, in this order.
absl::Status CheckTensors(const v1::WeightManifest& manifest,
                          const std::vector<wire::TensorEntry>& tensors) {
  std::map<std::string_view, const wire::TensorEntry*> expected;
  for (const wire::TensorEntry& entry : tensors) expected[entry.name] = &entry;
  std::vector<std::string> problems;
  std::set<std::string_view> seen;
  for (const v1::TensorSpec& spec : manifest.tensors()) {
    const auto it = expected.find(spec.name());
    if (it == expected.end()) {
      problems.push_back(absl::StrCat(spec.name(), ": not a tensor of this model"));
    } else if (!seen.insert(spec.name()).second) {
      problems.push_back(absl::StrCat(spec.name(), ": named twice"));
    } else if (std::string mismatch = Mismatch(spec, *it->second); !mismatch.empty()) {
      problems.push_back(std::move(mismatch));
    }
  }
  for (const wire::TensorEntry& entry : tensors) {
    if (!seen.contains(entry.name)) problems.push_back(absl::StrCat(entry.name, ": missing"));
  }
  if (!problems.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("manifest.tensors: ", absl::StrJoin(problems, "; ")));
  }
  for (int i = 0; i < manifest.tensors_size(); ++i) {
    const std::string& name = tensors[static_cast<size_t>(i)].name;
    if (manifest.tensors(i).name() != name) {
      return absl::InvalidArgumentError(
          absl::StrCat("manifest.tensors[", i, "]: ", manifest.tensors(i).name(), " stands where ",
                       name, " belongs in canonical order"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckHash(const v1::BeginTransferRequest& request) {
  std::vector<wire::TensorEntry> entries;
  for (const v1::TensorSpec& spec : request.manifest().tensors()) entries.push_back(EntryOf(spec));
  wire::Sha256Digest hash = wire::ManifestHash(entries);
  if (request.has_adapter()) {
    const auto base = wire::DigestFromBytes(request.adapter().base_manifest_hash());
    if (!base) {
      return absl::InvalidArgumentError("content.adapter.base_manifest_hash: expected 32 bytes");
    }
    hash = wire::AdaptedManifestHash(*base, hash, request.adapter().adapter_config());
  }
  if (wire::ToBytes(hash) == request.version().manifest_hash()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      request.has_adapter()
          ? "version.manifest_hash: is not the hash of the base, `manifest` and the adapter's "
            "configuration"
          : "version.manifest_hash: is not the hash of `manifest`");
}

}  // namespace

WeightStaging::WeightStaging(WeightLayout layout, std::optional<v1::PolicyVersion> held)
    : layout_(std::move(layout)),
      held_(std::move(held)),
      base_manifest_hash_(layout_.base_manifest_hash) {}

absl::StatusOr<v1::BeginTransferResponse> WeightStaging::Begin(
    const v1::BeginTransferRequest& request) {
  if (request.has_shared_memory() || request.has_nccl()) {
    return absl::UnimplementedError("transport: this server receives weights by `stream` only");
  }
  if (request.has_delta()) {
    return absl::UnimplementedError(
        "content: this server takes whole sets of weights and adapters, no parts");
  }
  ROLLCALL_RETURN_IF_ERROR(CheckVersionFields(request.version()));
  ROLLCALL_RETURN_IF_ERROR(CheckManifest(request.manifest()));
  std::optional<model::LoraConfig> adapter;
  if (request.has_adapter()) {
    ROLLCALL_ASSIGN_OR_RETURN(const std::vector<wire::TensorEntry> expected,
                              AdapterTensors(request.adapter(), &adapter.emplace()));
    ROLLCALL_RETURN_IF_ERROR(CheckTensors(request.manifest(), expected));
  } else {
    ROLLCALL_RETURN_IF_ERROR(CheckTensors(request.manifest(), layout_.tensors));
  }
  ROLLCALL_RETURN_IF_ERROR(CheckHash(request));

  absl::MutexLock lock(&mutex_);
  if (committing_) return absl::UnavailableError("a commit is in progress; try again");
  if (request.has_adapter()) ROLLCALL_RETURN_IF_ERROR(CheckBase(request.adapter()));
  ROLLCALL_RETURN_IF_ERROR(CheckFence(request.version()));
  if (!transfer_.has_value() || !Equal(transfer_->weights->version, request.version())) {
    ROLLCALL_RETURN_IF_ERROR(OpenTransfer(request, std::move(adapter)));
  }
  v1::BeginTransferResponse response;
  response.set_transfer_id(transfer_->id);
  for (size_t i = 0; i < transfer_->received.size(); ++i) {
    if (Complete(*transfer_, i)) response.add_complete_tensors(static_cast<uint32_t>(i));
  }
  return response;
}

absl::Status WeightStaging::CheckManifest(const v1::WeightManifest& manifest) const {
  // The architecture first: with another one, a list of tensors says little.
  if (manifest.architecture_hash() != layout_.architecture_hash) {
    return absl::FailedPreconditionError(
        "manifest.architecture_hash: the weights are of another architecture than this server's");
  }
  if (manifest.tokenizer_hash() != layout_.tokenizer_hash) {
    return absl::FailedPreconditionError(
        "manifest.tokenizer_hash: the weights go with another tokenizer than this server's");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<wire::TensorEntry>> WeightStaging::AdapterTensors(
    const v1::AdapterContent& adapter, model::LoraConfig* lora) const {
  ROLLCALL_ASSIGN_OR_RETURN(
      *lora, model::ReadPeftConfig(adapter.adapter_config(), "content.adapter.adapter_config",
                                   layout_.model));
  if (model::CanonicalAdapterConfig(*lora) != adapter.adapter_config()) {
    return absl::InvalidArgumentError(
        absl::StrCat("content.adapter.adapter_config: expected its canonical form, ",
                     model::CanonicalAdapterConfig(*lora)));
  }
  std::vector<wire::TensorEntry> tensors;
  for (const model::AdapterParameter& parameter :
       model::AdapterParametersOf(layout_.model, *lora)) {
    tensors.push_back({.name = parameter.name,
                       .dtype = wire::DType::kFloat32,
                       .shape = parameter.shape,
                       .sha256 = {}});
  }
  return tensors;
}

absl::Status WeightStaging::CheckBase(const v1::AdapterContent& adapter) const {
  if (base_manifest_hash_.empty()) {
    return absl::FailedPreconditionError(
        "content.adapter: this server holds no weights that an adapter could go with: start it "
        "with "
        "model.lora, or without generator.wait_for_weights");
  }
  if (adapter.base_manifest_hash() != base_manifest_hash_) {
    return absl::FailedPreconditionError(
        "content.adapter.base_manifest_hash: the adapter is of other base weights than this "
        "server's: another model.path, or another model.dtype");
  }
  return absl::OkStatus();
}

absl::Status WeightStaging::CheckFence(const v1::PolicyVersion& version) const {
  if (!run_id_.empty() && version.run_id() != run_id_) {
    return absl::FailedPreconditionError(
        absl::StrCat("version.run_id: this server belongs to run '", run_id_, "', got '",
                     version.run_id(), "'"));
  }
  if (version.lineage() < highest_lineage_) {
    return absl::FailedPreconditionError(absl::StrCat("version.lineage: lineage ", highest_lineage_,
                                                      " was seen, got ", version.lineage()));
  }
  if (held_.has_value() && Equal(*held_, version)) {
    return absl::AlreadyExistsError(absl::StrCat(Describe(version), " is committed already"));
  }
  const auto not_newer = [&version](const v1::PolicyVersion& other) {
    return version.run_id() == other.run_id() && version.lineage() == other.lineage() &&
           version.step() <= other.step();
  };
  if (held_.has_value() && not_newer(*held_)) {
    return absl::FailedPreconditionError(
        absl::StrCat("version.step: ", Describe(*held_), " is held, got step ", version.step(),
                     version.step() == held_->step() ? " with another manifest_hash" : ""));
  }
  if (transfer_.has_value() && not_newer(transfer_->weights->version) &&
      version.step() < transfer_->weights->version.step()) {
    return absl::FailedPreconditionError(absl::StrCat("version.step: a transfer of ",
                                                      Describe(transfer_->weights->version),
                                                      " is open, got step ", version.step()));
  }
  return absl::OkStatus();
}

absl::Status WeightStaging::OpenTransfer(const v1::BeginTransferRequest& request,
                                         std::optional<model::LoraConfig> adapter) {
  transfer_.reset();  // before the new one: both may not fit
  Transfer transfer;
  transfer.weights = std::make_shared<StagedWeights>();
  transfer.weights->version = request.version();
  transfer.weights->adapter = std::move(adapter);
  try {
    for (const v1::TensorSpec& spec : request.manifest().tensors()) {
      wire::TensorEntry entry = EntryOf(spec);
      ROLLCALL_ASSIGN_OR_RETURN(const int64_t size, wire::ByteSize(entry.dtype, entry.shape));
      transfer.weights->tensors.push_back(
          {std::move(entry), std::string(static_cast<size_t>(size), '\0')});
    }
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("no memory to stage these weights");
  }
  transfer.received.resize(transfer.weights->tensors.size());
  transfer.id = next_transfer_++;
  run_id_ = request.version().run_id();
  highest_lineage_ = request.version().lineage();
  transfer_ = std::move(transfer);
  return absl::OkStatus();
}

absl::Status WeightStaging::Write(const v1::WeightChunk& chunk) {
  if (chunk.data().size() > kMaxChunkBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "data: ", chunk.data().size(), " bytes, at most ", kMaxChunkBytes, " are taken"));
  }
  absl::MutexLock lock(&mutex_);
  if (!transfer_.has_value() || transfer_->id != chunk.transfer_id()) {
    return absl::NotFoundError(absl::StrCat("transfer_id: no transfer ", chunk.transfer_id()));
  }
  if (committing_) return absl::UnavailableError("the transfer is being committed");
  if (chunk.tensor_index() >= transfer_->weights->tensors.size()) {
    return absl::InvalidArgumentError(absl::StrCat("tensor_index: ", chunk.tensor_index(), " of ",
                                                   transfer_->weights->tensors.size(), " tensors"));
  }
  StagedWeights::Tensor& tensor = transfer_->weights->tensors[chunk.tensor_index()];
  const uint64_t size = tensor.bytes.size();
  if (chunk.offset() > size || chunk.data().size() > size - chunk.offset()) {
    return absl::InvalidArgumentError(absl::StrCat("offset: ", chunk.data().size(), " bytes at ",
                                                   chunk.offset(), " of ", tensor.entry.name,
                                                   ", which has ", size));
  }
  std::memcpy(tensor.bytes.data() + chunk.offset(), chunk.data().data(), chunk.data().size());

  // Merges [begin, end) into the ranges that are there.
  std::map<uint64_t, uint64_t>& received = transfer_->received[chunk.tensor_index()];
  uint64_t begin = chunk.offset(), end = begin + chunk.data().size();
  auto it = received.upper_bound(begin);
  if (it != received.begin() && std::prev(it)->second >= begin) --it;
  while (it != received.end() && it->first <= end) {
    begin = std::min(begin, it->first);
    end = std::max(end, it->second);
    it = received.erase(it);
  }
  received[begin] = end;
  return absl::OkStatus();
}

bool WeightStaging::Complete(const Transfer& transfer, size_t tensor) const {
  const uint64_t size = transfer.weights->tensors[tensor].bytes.size();
  const auto& received = transfer.received[tensor];
  return size == 0 ||
         (received.size() == 1 && received.begin()->first == 0 && received.begin()->second == size);
}

absl::Status WeightStaging::CheckComplete(const Transfer& transfer) const {
  std::vector<std::string_view> missing;
  for (size_t i = 0; i < transfer.received.size(); ++i) {
    if (!Complete(transfer, i)) missing.push_back(transfer.weights->tensors[i].entry.name);
  }
  if (missing.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "bytes are missing of ",
      absl::StrJoin(missing, ", ",
                    [](std::string* out, std::string_view name) { out->append(name); })));
}

absl::StatusOr<std::shared_ptr<const StagedWeights>> WeightStaging::BeginCommit(
    const v1::CommitRequest& request) {
  std::shared_ptr<StagedWeights> weights;
  {
    absl::MutexLock lock(&mutex_);
    if (held_.has_value() && Equal(*held_, request.version())) return nullptr;
    if (!transfer_.has_value() || transfer_->id != request.transfer_id()) {
      return absl::NotFoundError(absl::StrCat("transfer_id: no transfer ", request.transfer_id()));
    }
    if (committing_) return absl::UnavailableError("the transfer is being committed");
    if (!Equal(transfer_->weights->version, request.version())) {
      return absl::InvalidArgumentError(absl::StrCat("version: transfer ", transfer_->id, " is of ",
                                                     Describe(transfer_->weights->version)));
    }
    ROLLCALL_RETURN_IF_ERROR(CheckComplete(*transfer_));
    committing_ = true;
    weights = transfer_->weights;
  }
  // Nobody writes while committing_ is set.
  std::vector<size_t> damaged;
  for (size_t i = 0; i < weights->tensors.size(); ++i) {
    if (wire::Sha256Of(weights->tensors[i].bytes) != weights->tensors[i].entry.sha256)
      damaged.push_back(i);
  }
  if (damaged.empty()) return weights;
  absl::MutexLock lock(&mutex_);
  committing_ = false;
  std::vector<std::string> names;
  for (const size_t i : damaged) {
    transfer_->received[i].clear();
    names.push_back(weights->tensors[i].entry.name);
  }
  return absl::DataLossError(absl::StrCat("the hash differs of ", absl::StrJoin(names, ", ")));
}

void WeightStaging::EndCommit(const absl::Status& in_service) {
  absl::MutexLock lock(&mutex_);
  committing_ = false;
  held_.reset();
  if (in_service.ok()) held_ = transfer_->weights->version;
  if (!transfer_->weights->adapter.has_value()) {
    base_manifest_hash_ = in_service.ok() ? held_->manifest_hash() : "";
  }
  transfer_.reset();
}

absl::Status WeightStaging::Abort(uint64_t transfer_id) {
  absl::MutexLock lock(&mutex_);
  if (!transfer_.has_value() || transfer_->id != transfer_id) return absl::OkStatus();
  if (committing_) return absl::UnavailableError("the transfer is being committed");
  transfer_.reset();
  return absl::OkStatus();
}

bool WeightStaging::up_to_date() const {
  absl::MutexLock lock(&mutex_);
  return held_.has_value() && !transfer_.has_value();
}

}  // namespace rollcall::generator
