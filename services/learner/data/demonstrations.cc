#include "services/learner/data/demonstrations.h"

#include <algorithm>
#include <utility>

#include "common/base/status.h"
#include "services/learner/data/demonstration_reader.h"

namespace rollcall::learner {

absl::StatusOr<DemonstrationSet> LoadDemonstrations(
    const v1::DataSection& data, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
    const text::Tokenizer& tokenizer, uint64_t max_sequence_tokens) {
  return LoadExamples(data, sources, DemonstrationReader(data, tokenizer, max_sequence_tokens));
}

absl::StatusOr<std::shared_ptr<const Examples<MaskedTokens>>> OpenDemonstrations(
    const v1::DataSection& data, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
    const text::Tokenizer& tokenizer, uint64_t max_sequence_tokens, uint64_t seed,
    uint64_t memory_bytes) {
  return OpenExamples(data, sources, DemonstrationReader(data, tokenizer, max_sequence_tokens),
                      seed, memory_bytes);
}

absl::StatusOr<TrainBatch> DemonstrationSource::Next(uint64_t step) {
  if (step == 0) return absl::InvalidArgumentError("steps are counted from 1");
  TrainBatch batch;
  double tokens = 0, taught = 0;
  const uint64_t first = (step - 1) * sequences_per_step_;
  ROLLCALL_ASSIGN_OR_RETURN(const auto rows,
                            DrawBatch(*examples_, first, sequences_per_step_, batch.metrics));
  for (size_t i = 0; i < rows.size(); ++i) {
    const MaskedTokens& row = *rows[i];
    TrainSequence sequence;
    sequence.group_id = first + i;
    sequence.token_ids = row.token_ids;
    sequence.loss_mask = row.loss_mask;
    tokens += static_cast<double>(row.token_ids.size());
    taught += static_cast<double>(std::count(row.loss_mask.begin(), row.loss_mask.end(), 1));
    batch.sequences.push_back(std::move(sequence));
  }
  batch.metrics["length/mean"] = tokens / sequences_per_step_;
  batch.metrics["length/completion_mean"] = taught / sequences_per_step_;
  return batch;
}

}  // namespace rollcall::learner
