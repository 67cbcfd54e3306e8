#pragma once

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "services/learner/batching/batch.h"
#include "services/learner/reference/reference_cache.h"
#include "services/learner/reference/reference_client.h"

namespace rollcall::learner {

// Fills the column of reference log-probs of batches: from the cache, where there is one, and what
// it does not hold from the references. One thread at a time.
class ReferenceLogprobs {
 public:
  // `client` must outlive it; `cache` may be null.
  ReferenceLogprobs(ReferenceClient* client, std::unique_ptr<ReferenceCache> cache)
      : client_(client), cache_(std::move(cache)) {}

  // Metrics of the batch: reference/scored (sequences asked for), reference/cached (found). Blocks;
  // statuses of ReferenceClient::Score.
  absl::Status Fill(TrainBatch& batch);

 private:
  ReferenceClient* const client_;
  const std::unique_ptr<ReferenceCache> cache_;
  bool writes_ = true;
};

}  // namespace rollcall::learner
