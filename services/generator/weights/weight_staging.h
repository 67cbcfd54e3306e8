#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/model/model_config.h"
#include "common/wire/manifest.h"
#include "rollcall/v1/weights.pb.h"
#include "services/generator/weights/staged_weights.h"

namespace rollcall::generator {

// What the weights of a model look like; the hashes of the tensors are not used.
struct WeightLayout {
  std::vector<wire::TensorEntry> tensors;  // in canonical order
  std::string architecture_hash;           // as in WeightManifest
  std::string tokenizer_hash;              // likewise; empty: the model has no tokenizer
  // The model, and the hash of the weights that it was loaded with, which adapters go with; empty:
  // it waits for weights.
  model::ModelConfig model;
  std::string base_manifest_hash;
};

// Receives sets of weights, and adapters of the weights held, into host memory: the state behind the Weights service, without gRPC and
// without a model. At most one transfer is open. It becomes a StagedWeights only whole and with
// every hash right, so that whoever puts that into service never mixes versions.
//
// Fencing: the first run whose manifest is accepted is the run of this server from then on; of it,
// a lineage lower than one that was seen, and within a lineage a step that is not above the one
// held, are refused.
//
// Thread-safe. BeginCommit hashes gigabytes and blocks meanwhile, but not the other calls.
class WeightStaging {
 public:
  // `held`: the version loaded at the start, if any.
  WeightStaging(WeightLayout layout, std::optional<v1::PolicyVersion> held);

  // Statuses as documented for Weights.Begin. UNAVAILABLE while a commit is in progress.
  absl::StatusOr<v1::BeginTransferResponse> Begin(const v1::BeginTransferRequest& request)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Statuses as documented for Weights.Push.
  absl::Status Write(const v1::WeightChunk& chunk) ABSL_LOCKS_EXCLUDED(mutex_);

  // Verifies the transfer and hands its weights over to be put into service; EndCommit must follow.
  // nullptr: this version is committed already, and nothing must follow. Statuses as documented for
  // Weights.Commit.
  absl::StatusOr<std::shared_ptr<const StagedWeights>> BeginCommit(const v1::CommitRequest& request)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Ends the commit: the weights serve (OK), or could not be put into service and nothing is held
  // any more.
  void EndCommit(const absl::Status& in_service) ABSL_LOCKS_EXCLUDED(mutex_);

  // Drops the transfer if it is this one. UNAVAILABLE while it is being committed.
  absl::Status Abort(uint64_t transfer_id) ABSL_LOCKS_EXCLUDED(mutex_);

  // Whether the newest version offered is the one held.
  bool up_to_date() const ABSL_LOCKS_EXCLUDED(mutex_);

  const WeightLayout& layout() const { return layout_; }

 private:
  struct Transfer {
    uint64_t id = 0;
    std::shared_ptr<StagedWeights> weights;
    // Per tensor the bytes that arrived: begin -> end of disjoint ranges that do not touch.
    std::vector<std::map<uint64_t, uint64_t>> received;
  };

  absl::Status CheckManifest(const v1::WeightManifest& manifest) const;
  // What the tensors of an adapter must be; `lora` gets its settings.
  absl::StatusOr<std::vector<wire::TensorEntry>> AdapterTensors(const v1::AdapterContent& adapter,
                                                                model::LoraConfig* lora) const;
  absl::Status CheckBase(const v1::AdapterContent& adapter) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckFence(const v1::PolicyVersion& version) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status OpenTransfer(const v1::BeginTransferRequest& request,
                            std::optional<model::LoraConfig> adapter)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Complete(const Transfer& transfer, size_t tensor) const;
  absl::Status CheckComplete(const Transfer& transfer) const;

  const WeightLayout layout_;

  mutable absl::Mutex mutex_;
  std::optional<v1::PolicyVersion> held_ ABSL_GUARDED_BY(mutex_);
  // Of the model's own weights, which an adapter leaves as they are; empty: there are none.
  std::string base_manifest_hash_ ABSL_GUARDED_BY(mutex_);
  std::string run_id_ ABSL_GUARDED_BY(mutex_);  // empty: any run may come
  uint64_t highest_lineage_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t next_transfer_ ABSL_GUARDED_BY(mutex_) = 1;
  std::optional<Transfer> transfer_ ABSL_GUARDED_BY(mutex_);
  bool committing_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace rollcall::generator
