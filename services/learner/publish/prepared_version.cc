#include "services/learner/publish/prepared_version.h"

#include <utility>
#include <vector>

#include "common/wire/manifest.h"
#include "common/wire/sha256.h"

namespace rollcall::learner {

uint64_t PreparedVersion::TotalBytes() const {
  uint64_t bytes = 0;
  for (const WeightSnapshot::Tensor& tensor : snapshot->tensors) bytes += tensor.bytes.size();
  return bytes;
}

PreparedVersionPtr PrepareVersion(const VersionIdentity& identity, WeightSnapshotPtr snapshot) {
  auto prepared = std::make_shared<PreparedVersion>();
  std::vector<wire::TensorEntry> entries;
  for (const WeightSnapshot::Tensor& tensor : snapshot->tensors) {
    wire::Sha256 sha256;
    sha256.Update(tensor.bytes.data(), tensor.bytes.size());
    wire::TensorEntry entry{.name = tensor.name,
                            .dtype = tensor.dtype,
                            .shape = {tensor.shape.begin(), tensor.shape.end()},
                            .sha256 = sha256.Finish()};
    v1::TensorSpec* spec = prepared->manifest.add_tensors();
    spec->set_name(tensor.name);
    spec->set_dtype(static_cast<v1::DataType>(tensor.dtype));
    spec->mutable_shape()->Add(tensor.shape.begin(), tensor.shape.end());
    spec->set_sha256(wire::ToBytes(entry.sha256));
    entries.push_back(std::move(entry));
  }
  prepared->manifest.set_architecture_hash(identity.architecture_hash);
  prepared->manifest.set_tokenizer_hash(identity.tokenizer_hash);
  prepared->version.set_run_id(identity.run_id);
  prepared->version.set_lineage(identity.lineage);
  prepared->version.set_step(snapshot->step);
  wire::Sha256Digest hash = wire::ManifestHash(entries);
  if (snapshot->adapter) {
    const auto base = wire::DigestFromBytes(snapshot->adapter->base_manifest_hash);
    hash = wire::AdaptedManifestHash(base.value(), hash, snapshot->adapter->config);
  }
  prepared->version.set_manifest_hash(wire::ToBytes(hash));
  prepared->snapshot = std::move(snapshot);
  return prepared;
}

}  // namespace rollcall::learner
