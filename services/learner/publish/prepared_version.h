#pragma once

#include <memory>
#include <string>

#include "rollcall/v1/identity.pb.h"
#include "rollcall/v1/weights.pb.h"
#include "services/learner/publish/weight_source.h"

namespace rollcall::learner {

// A set of weights, or an adapter, with its identity, ready to be pushed. Immutable and shared between the
// generators' links.
struct PreparedVersion {
  v1::PolicyVersion version;
  v1::WeightManifest manifest;
  WeightSnapshotPtr snapshot;

  uint64_t TotalBytes() const;
};

using PreparedVersionPtr = std::shared_ptr<const PreparedVersion>;

// What all versions of one learner's start have in common. Hashes are 32 raw bytes
// (common/model/identity.h).
struct VersionIdentity {
  std::string run_id;
  uint64_t lineage = 1;
  std::string architecture_hash;
  std::string tokenizer_hash;
};

// Hashes every tensor (SHA-256, about a second for each gigabyte).
PreparedVersionPtr PrepareVersion(const VersionIdentity& identity, WeightSnapshotPtr snapshot);

}  // namespace rollcall::learner
