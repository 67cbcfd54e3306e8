#include "services/learner/data/preferences.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "services/learner/data/column_path.h"
#include "services/learner/data/demonstration_reader.h"
#include "services/learner/data/row_policy.h"
#include "services/learner/data/source_files.h"

namespace rollcall::learner {
namespace {

// The columns of one side of a pair, as those of a demonstration.
v1::DataSection Side(const v1::DataSection& data, const std::string& column) {
  v1::DataSection side = data;
  side.set_completion_column(column);
  return side;
}

struct Range {
  double low = 0, high = 0;
};
constexpr Range kAnyNumber = {std::numeric_limits<double>::lowest(),
                              std::numeric_limits<double>::max()};

absl::StatusOr<double> NumberIn(const RowPlace& place, const nlohmann::json& row,
                                const std::string& column, const char* expected, Range range) {
  const nlohmann::json* value = FindColumn(row, column);
  const double number =
      value != nullptr && value->is_number() ? value->get<double>() : std::nan("");
  // Neither holds for a NaN.
  if (number >= range.low && number <= range.high) return number;
  return place.WrongColumn(column, expected, value == nullptr ? nlohmann::json() : *value);
}

class PreferenceReader {
 public:
  PreferenceReader(const v1::DataSection& data, const text::Tokenizer& tokenizer,
                   uint64_t max_sequence_tokens)
      : data_(data),
        chosen_data_(Side(data, data.chosen_column())),
        rejected_data_(Side(data, data.rejected_column())),
        chosen_(chosen_data_, tokenizer, max_sequence_tokens),
        rejected_(rejected_data_, tokenizer, max_sequence_tokens) {}

  absl::StatusOr<PreferencePair> Read(const RowPlace& place, const nlohmann::json& row) const {
    for (const std::string& column : {data_.chosen_column(), data_.rejected_column()}) {
      if (FindColumn(row, column) == nullptr) {
        return place.Error(absl::StrCat("expected a column \"", column, "\""));
      }
    }
    PreferencePair pair;
    ROLLCALL_ASSIGN_OR_RETURN(pair.chosen, chosen_.Read(place, row));
    ROLLCALL_ASSIGN_OR_RETURN(pair.rejected, rejected_.Read(place, row));
    if (pair.chosen.token_ids == pair.rejected.token_ids) {
      return place.Error(absl::StrCat(
          "columns \"", data_.chosen_column(), "\" and \"", data_.rejected_column(),
          "\" are the same completion, so neither is preferred; take the row out, or set "
          "data.on_bad_row: skip"));
    }
    if (!data_.margin_column().empty()) {
      ROLLCALL_ASSIGN_OR_RETURN(
          pair.margin, NumberIn(place, row, data_.margin_column(), "a number", kAnyNumber));
    }
    if (!data_.preference_column().empty()) {
      ROLLCALL_ASSIGN_OR_RETURN(
          pair.preference, NumberIn(place, row, data_.preference_column(), "a probability, 0 to 1",
                                    {.low = 0, .high = 1}));
      if (pair.preference < 0.5) {
        std::swap(pair.chosen, pair.rejected);
        pair.preference = 1 - pair.preference;
      }
    }
    return pair;
  }

  absl::Status CheckLength(const RowPlace& place, const PreferencePair& pair) const {
    ROLLCALL_RETURN_IF_ERROR(chosen_.CheckLength(place, pair.chosen));
    return rejected_.CheckLength(place, pair.rejected);
  }

  // Both completions keep the same end of the prompt.
  bool Truncate(PreferencePair& pair) const {
    const uint64_t cut = std::max(chosen_.Surplus(pair.chosen), rejected_.Surplus(pair.rejected));
    return chosen_.Cut(pair.chosen, cut) && rejected_.Cut(pair.rejected, cut);
  }

 private:
  const v1::DataSection& data_;
  const v1::DataSection chosen_data_, rejected_data_;
  const DemonstrationReader chosen_, rejected_;
};

}  // namespace

absl::StatusOr<PreferenceSet> LoadPreferences(
    const v1::DataSection& data, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
    const text::Tokenizer& tokenizer, uint64_t max_sequence_tokens) {
  const PreferenceReader reader(data, tokenizer, max_sequence_tokens);
  RowPolicy policy(data);
  PreferenceSet set;
  const auto on_row = [&](int, const RowPlace& place, const nlohmann::json& row) {
    auto pair = reader.Read(place, row);
    if (!pair.ok()) return policy.OnBadRow(pair.status());
    if (const absl::Status fits = reader.CheckLength(place, *pair); !fits.ok()) {
      if (!policy.truncates() || !reader.Truncate(*pair)) return policy.OnLongRow(fits);
      policy.CountTruncated(fits);
    }
    set.pairs.push_back(*std::move(pair));
    return absl::OkStatus();
  };
  ROLLCALL_ASSIGN_OR_RETURN(set.sources,
                            ReadSources(sources, policy, on_row, [&] { return set.pairs.size(); }));
  set.left_out = policy.left_out();
  return set;
}

TrainBatch BatchOfPairs(const std::vector<const PreferencePair*>& pairs) {
  TrainBatch batch;
  double tokens = 0;
  for (size_t i = 0; i < pairs.size(); ++i) {
    for (const MaskedTokens* side : {&pairs[i]->chosen, &pairs[i]->rejected}) {
      TrainSequence& sequence = batch.sequences.emplace_back();
      sequence.group_id = i;
      sequence.sample_index = side == &pairs[i]->rejected ? 1 : 0;
      sequence.token_ids = side->token_ids;
      sequence.loss_mask = side->loss_mask;
      sequence.margin = pairs[i]->margin;
      sequence.preference = pairs[i]->preference;
      tokens += static_cast<double>(side->token_ids.size());
    }
  }
  batch.metrics["length/mean"] = tokens / static_cast<double>(2 * pairs.size());
  return batch;
}

absl::StatusOr<TrainBatch> PreferenceSource::Next(uint64_t step) {
  if (step == 0) return absl::InvalidArgumentError("steps are counted from 1");
  const uint64_t first = (step - 1) * pairs_per_step_;
  std::vector<const PreferencePair*> pairs;
  for (uint64_t ordinal = first; ordinal < first + pairs_per_step_; ++ordinal) {
    pairs.push_back(&set_->pairs[order_.At(ordinal).row]);
  }
  TrainBatch batch = BatchOfPairs(pairs);
  batch.metrics["data/epoch"] = static_cast<double>(order_.EpochOf(first));
  return batch;
}

}  // namespace rollcall::learner
