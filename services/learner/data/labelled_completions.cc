#include "services/learner/data/labelled_completions.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "services/learner/data/column_path.h"
#include "services/learner/data/demonstration_reader.h"
#include "services/learner/data/row_columns.h"

namespace rollcall::learner {
namespace {

std::optional<bool> LabelOf(const nlohmann::json* value) {
  if (value == nullptr) return std::nullopt;
  if (value->is_boolean()) return value->get<bool>();
  if (value->is_number() && (*value == 0 || *value == 1)) return *value == 1;
  return std::nullopt;
}

class LabelledReader {
 public:
  using Example = LabelledCompletion;

  LabelledReader(const v1::DataSection& data, const text::Tokenizer& tokenizer,
                 uint64_t max_sequence_tokens)
      : label_column_(data.label_column()), reader_(data, tokenizer, max_sequence_tokens) {}

  absl::StatusOr<LabelledCompletion> Read(const RowPlace& place, const nlohmann::json& row) const {
    LabelledCompletion completion;
    ROLLCALL_ASSIGN_OR_RETURN(completion.tokens, reader_.Read(place, row));
    const nlohmann::json* value = FindColumn(row, label_column_);
    if (value == nullptr) {
      return place.Error(absl::StrCat("expected a column \"", label_column_,
                                      "\" beside prompt and completion, the row has: ",
                                      ColumnsShown(row), "; name it by data.label_column"));
    }
    const std::optional<bool> label = LabelOf(value);
    if (!label.has_value()) {
      return place.WrongColumn(label_column_, "true or false, or 1 or 0", *value);
    }
    completion.desirable = *label;
    return completion;
  }

  absl::Status CheckLength(const RowPlace& place, const LabelledCompletion& completion) const {
    return reader_.CheckLength(place, completion.tokens);
  }
  absl::StatusOr<bool> Truncate(LabelledCompletion& completion) const {
    return reader_.Truncate(completion.tokens);
  }
  void SetSource(LabelledCompletion&, uint32_t) const {}

 private:
  const std::string label_column_;
  const DemonstrationReader reader_;
};

absl::Status CheckBothLabels(const LabelledSet& set, const v1::DataSection& data,
                             const std::string& first_path) {
  const auto desirable = std::count_if(set.rows.begin(), set.rows.end(),
                                       [](const auto& row) { return row.desirable; });
  if (desirable > 0 && desirable < static_cast<ptrdiff_t>(set.rows.size())) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      first_path, ": column \"", data.label_column(), "\": all ", set.rows.size(),
      " completions are ", desirable > 0 ? "desirable" : "undesirable",
      ", and kto learns from the difference: add some of the other kind, or train on desirable "
      "ones with stage sft"));
}

// Where the completion of a row begins.
ptrdiff_t CompletionStart(const MaskedTokens& tokens) {
  return std::find(tokens.loss_mask.begin(), tokens.loss_mask.end(), 1) - tokens.loss_mask.begin();
}

MaskedTokens Mismatched(const MaskedTokens& prompt_of, const MaskedTokens& completion_of,
                        uint64_t max_tokens) {
  const ptrdiff_t prompt = CompletionStart(prompt_of);
  const ptrdiff_t completion = CompletionStart(completion_of);
  MaskedTokens joined;
  joined.token_ids.assign(prompt_of.token_ids.begin(), prompt_of.token_ids.begin() + prompt);
  joined.loss_mask.assign(static_cast<size_t>(prompt), 0);
  joined.token_ids.insert(joined.token_ids.end(), completion_of.token_ids.begin() + completion,
                          completion_of.token_ids.end());
  joined.loss_mask.insert(joined.loss_mask.end(), completion_of.loss_mask.begin() + completion,
                          completion_of.loss_mask.end());
  if (max_tokens > 0 && joined.token_ids.size() > max_tokens) {
    joined.token_ids.resize(max_tokens);
    joined.loss_mask.resize(max_tokens);
  }
  return joined;
}

void AddSequence(MaskedTokens tokens, uint64_t group, uint32_t sample, bool desirable,
                 TrainBatch& batch) {
  TrainSequence& sequence = batch.sequences.emplace_back();
  sequence.group_id = group;
  sequence.sample_index = sample;
  sequence.token_ids = std::move(tokens.token_ids);
  sequence.loss_mask = std::move(tokens.loss_mask);
  sequence.preference = desirable ? 1 : 0;
}

}  // namespace

absl::StatusOr<LabelledSet> LoadLabelledCompletions(
    const v1::DataSection& data, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
    const text::Tokenizer& tokenizer, uint64_t max_sequence_tokens) {
  const LabelledReader reader(data, tokenizer, max_sequence_tokens);
  ROLLCALL_ASSIGN_OR_RETURN(LabelledSet set, LoadExamples(data, sources, reader));
  ROLLCALL_RETURN_IF_ERROR(CheckBothLabels(set, data, sources.begin()->path()));
  return set;
}

absl::StatusOr<std::shared_ptr<const Examples<LabelledCompletion>>> OpenLabelledCompletions(
    const v1::DataSection& data, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
    const text::Tokenizer& tokenizer, uint64_t max_sequence_tokens, uint64_t seed,
    uint64_t memory_bytes) {
  return OpenExamples(
      data, sources, LabelledReader(data, tokenizer, max_sequence_tokens), seed, memory_bytes,
      [&](const LabelledSet& set) { return CheckBothLabels(set, data, sources.begin()->path()); });
}

TrainBatch BatchOfLabelled(std::span<const LabelledCompletion* const> rows,
                           uint64_t max_sequence_tokens) {
  TrainBatch batch;
  double tokens = 0, desirable = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const LabelledCompletion& row = *rows[i];
    const LabelledCompletion& before = *rows[(i + rows.size() - 1) % rows.size()];
    AddSequence(row.tokens, i, 0, row.desirable, batch);
    // The row's own completion fits behind its prompt, so at least one token of another one does.
    AddSequence(Mismatched(row.tokens, before.tokens, max_sequence_tokens), i, 1, row.desirable,
                batch);
    tokens += static_cast<double>(row.tokens.token_ids.size());
    desirable += row.desirable ? 1 : 0;
  }
  batch.metrics["length/mean"] = tokens / static_cast<double>(rows.size());
  batch.metrics["data/desirable"] = desirable / static_cast<double>(rows.size());
  return batch;
}

absl::StatusOr<TrainBatch> LabelledSource::Next(uint64_t step) {
  if (step == 0) return absl::InvalidArgumentError("steps are counted from 1");
  const uint64_t first = (step - 1) * completions_per_step_;
  std::map<std::string, double> metrics;
  ROLLCALL_ASSIGN_OR_RETURN(const auto drawn,
                            DrawBatch(*examples_, first, completions_per_step_, metrics));
  std::vector<const LabelledCompletion*> rows;
  for (const auto& row : drawn) rows.push_back(row.get());
  TrainBatch batch = BatchOfLabelled(rows, max_sequence_tokens_);
  batch.metrics.merge(metrics);
  return batch;
}

}  // namespace rollcall::learner
