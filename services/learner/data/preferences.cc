#include "services/learner/data/preferences.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "services/learner/data/column_path.h"
#include "services/learner/data/demonstration_reader.h"
#include "services/learner/data/pair_columns.h"

namespace rollcall::learner {
namespace {

class PreferenceReader {
 public:
  using Example = PreferencePair;

  PreferenceReader(const v1::DataSection& data, const text::Tokenizer& tokenizer,
                   uint64_t max_sequence_tokens)
      : data_(data), reader_(data, tokenizer, max_sequence_tokens) {}

  absl::StatusOr<PreferencePair> Read(const RowPlace& place, const nlohmann::json& row) const {
    ROLLCALL_ASSIGN_OR_RETURN(const PairColumns columns, SplitPair(data_, place, row));
    PreferencePair pair;
    const FoundColumn prompt{columns.prompt_column, &columns.prompt};
    ROLLCALL_ASSIGN_OR_RETURN(
        pair.chosen, reader_.ReadPair(place, prompt, {data_.chosen_column(), &columns.chosen}));
    ROLLCALL_ASSIGN_OR_RETURN(
        pair.rejected,
        reader_.ReadPair(place, prompt, {data_.rejected_column(), &columns.rejected}));
    constexpr double kAny = std::numeric_limits<double>::max();
    ROLLCALL_RETURN_IF_ERROR(
        ReadNumber(place, row, data_.margin_column(), "a number", -kAny, kAny, pair.margin));
    ROLLCALL_RETURN_IF_ERROR(ReadNumber(place, row, data_.preference_column(),
                                        "a probability from 0 to 1", 0, 1, pair.preference));
    if (pair.chosen.token_ids == pair.rejected.token_ids) {
      return place.Error(absl::StrCat(
          "column \"", data_.rejected_column(), "\": expected other tokens than those of \"",
          data_.chosen_column(), "\", got the same, so neither is preferred; remove the row"));
    }
    if (pair.preference < 0.5) {
      std::swap(pair.chosen, pair.rejected);
      pair.preference = 1 - pair.preference;
    }
    return pair;
  }

  absl::Status CheckLength(const RowPlace& place, const PreferencePair& pair) const {
    ROLLCALL_RETURN_IF_ERROR(reader_.CheckLength(place, pair.chosen));
    return reader_.CheckLength(place, pair.rejected);
  }

  // Both completions keep the same end of the prompt.
  absl::StatusOr<bool> Truncate(PreferencePair& pair) const {
    const uint64_t cut = std::max(reader_.Surplus(pair.chosen), reader_.Surplus(pair.rejected));
    return reader_.Cut(pair.chosen, cut) && reader_.Cut(pair.rejected, cut);
  }
  void SetSource(PreferencePair&, uint32_t) const {}

 private:
  // Leaves `number` as it is where no column is named.
  static absl::Status ReadNumber(const RowPlace& place, const nlohmann::json& row,
                                 const std::string& column, std::string_view expected, double least,
                                 double most, double& number) {
    if (column.empty()) return absl::OkStatus();
    const nlohmann::json* found = FindColumn(row, column);
    if (found == nullptr) {
      return place.Error(
          absl::StrCat("expected a column \"", column,
                       "\", which the configuration names, the row has: ", ColumnsShown(row)));
    }
    // Also false for what is no number at all.
    const double value = found->is_number() ? found->get<double>() : std::nan("");
    if (!(value >= least && value <= most)) return place.WrongColumn(column, expected, *found);
    number = value;
    return absl::OkStatus();
  }

  const v1::DataSection& data_;
  const DemonstrationReader reader_;
};

}  // namespace

absl::StatusOr<PreferenceSet> LoadPreferences(
    const v1::DataSection& data, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
    const text::Tokenizer& tokenizer, uint64_t max_sequence_tokens) {
  const PreferenceReader reader(data, tokenizer, max_sequence_tokens);
  ROLLCALL_ASSIGN_OR_RETURN(auto set, LoadExamples(data, sources, reader));
  return PreferenceSet{std::move(set.rows), std::move(set.sources), set.left_out};
}

absl::StatusOr<std::shared_ptr<const Examples<PreferencePair>>> OpenPreferences(
    const v1::DataSection& data, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
    const text::Tokenizer& tokenizer, uint64_t max_sequence_tokens, uint64_t seed,
    uint64_t memory_bytes) {
  return OpenExamples(data, sources, PreferenceReader(data, tokenizer, max_sequence_tokens), seed,
                      memory_bytes);
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
  std::map<std::string, double> metrics;
  ROLLCALL_ASSIGN_OR_RETURN(const auto drawn,
                            DrawBatch(*examples_, first, pairs_per_step_, metrics));
  std::vector<const PreferencePair*> pairs;
  for (const auto& pair : drawn) pairs.push_back(pair.get());
  TrainBatch batch = BatchOfPairs(pairs);
  batch.metrics.merge(metrics);
  return batch;
}

}  // namespace rollcall::learner
