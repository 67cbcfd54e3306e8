#pragma once

#include <cstdint>
#include <future>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "services/learner/batching/batch.h"

namespace rollcall::learner {

// The batches of another source, each read while the step before it is trained.
class ReadAheadSource final : public BatchSource {
 public:
  // `source` is a pure function of the step; it is called by one thread at a time.
  explicit ReadAheadSource(std::unique_ptr<BatchSource> source) : source_(std::move(source)) {}

  // Statuses of the source. Blocks while its batch is being read.
  absl::StatusOr<TrainBatch> Next(uint64_t step) override;

 private:
  const std::unique_ptr<BatchSource> source_;
  // Destroyed before the source: its destructor waits.
  std::future<absl::StatusOr<TrainBatch>> ahead_;
  uint64_t ahead_step_ = 0;
};

}  // namespace rollcall::learner
