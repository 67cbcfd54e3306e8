#include "services/learner/data/demonstrations.h"

#include <algorithm>
#include <utility>

#include "common/base/status.h"
#include "services/learner/data/demonstration_reader.h"
#include "services/learner/data/row_policy.h"
#include "services/learner/data/source_files.h"

namespace rollcall::learner {

absl::StatusOr<DemonstrationSet> LoadDemonstrations(
    const v1::DataSection& data, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
    const text::Tokenizer& tokenizer, uint64_t max_sequence_tokens) {
  const DemonstrationReader reader(data, tokenizer, max_sequence_tokens);
  RowPolicy policy(data);
  DemonstrationSet set;
  const auto on_row = [&](int, const RowPlace& place, const nlohmann::json& row) {
    auto tokens = reader.Read(place, row);
    if (!tokens.ok()) return policy.OnBadRow(tokens.status());
    if (const absl::Status fits = reader.CheckLength(place, *tokens); !fits.ok()) {
      if (!policy.truncates() || !reader.Cut(*tokens, reader.Surplus(*tokens)))
        return policy.OnLongRow(fits);
      policy.CountTruncated(fits);
    }
    set.rows.push_back(*std::move(tokens));
    return absl::OkStatus();
  };
  ROLLCALL_ASSIGN_OR_RETURN(set.sources,
                            ReadSources(sources, policy, on_row, [&] { return set.rows.size(); }));
  set.left_out = policy.left_out();
  return set;
}

absl::StatusOr<TrainBatch> DemonstrationSource::Next(uint64_t step) {
  if (step == 0) return absl::InvalidArgumentError("steps are counted from 1");
  TrainBatch batch;
  double tokens = 0, taught = 0;
  const uint64_t first = (step - 1) * sequences_per_step_;
  for (uint64_t ordinal = first; ordinal < first + sequences_per_step_; ++ordinal) {
    const MaskedTokens& row = set_->rows[order_.At(ordinal).row];
    TrainSequence sequence;
    sequence.group_id = ordinal;
    sequence.token_ids = row.token_ids;
    sequence.loss_mask = row.loss_mask;
    tokens += static_cast<double>(row.token_ids.size());
    taught += static_cast<double>(std::count(row.loss_mask.begin(), row.loss_mask.end(), 1));
    batch.sequences.push_back(std::move(sequence));
  }
  batch.metrics["length/mean"] = tokens / sequences_per_step_;
  batch.metrics["length/completion_mean"] = taught / sequences_per_step_;
  batch.metrics["data/epoch"] = static_cast<double>(order_.EpochOf(first));
  return batch;
}

}  // namespace rollcall::learner
