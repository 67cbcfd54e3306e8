#include "services/learner/data/demonstrations.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "services/learner/data/jsonl_file.h"
#include "services/learner/data/row_policy.h"

namespace rollcall::learner {
namespace {

class DemonstrationReader {
 public:
  DemonstrationReader(const v1::DataSection& data, const text::Tokenizer& tokenizer,
                      uint64_t max_sequence_tokens)
      : data_(data), tokenizer_(tokenizer), max_sequence_tokens_(max_sequence_tokens) {}

  absl::StatusOr<MaskedTokens> Read(const RowPlace& place, const nlohmann::json& row) const {
    absl::StatusOr<MaskedTokens> tokens = Encode(place, row);
    if (!tokens.ok()) return tokens;
    // Nothing predicts a first token, which only a prompt of no tokens leaves in the loss.
    if (!tokens->loss_mask.empty()) tokens->loss_mask[0] = 0;
    if (std::find(tokens->loss_mask.begin(), tokens->loss_mask.end(), 1) ==
        tokens->loss_mask.end()) {
      return place.Error("expected a completion of at least one token after the first of the row");
    }
    return tokens;
  }

  absl::Status CheckLength(const RowPlace& place, const MaskedTokens& tokens) const {
    const auto prompt = static_cast<uint64_t>(
        std::find(tokens.loss_mask.begin(), tokens.loss_mask.end(), 1) - tokens.loss_mask.begin());
    if (prompt > data_.max_prompt_tokens()) {
      return place.Error(absl::StrCat("the prompt has ", prompt,
                                      " tokens, data.max_prompt_tokens is ",
                                      data_.max_prompt_tokens()));
    }
    if (max_sequence_tokens_ > 0 && tokens.token_ids.size() > max_sequence_tokens_) {
      return place.Error(absl::StrCat("the row has ", tokens.token_ids.size(),
                                      " tokens, the model's context is ", max_sequence_tokens_));
    }
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<MaskedTokens> Encode(const RowPlace& place, const nlohmann::json& row) const {
    if (!row.contains(data_.prompt_column())) {
      return EncodeMessages(place, row, data_.messages_column());
    }
    const nlohmann::json& prompt = row[data_.prompt_column()];
    if (!row.contains(data_.completion_column())) {
      return place.Error(absl::StrCat("expected a column \"", data_.completion_column(), "\""));
    }
    const nlohmann::json& completion = row[data_.completion_column()];
    if (prompt.is_string()) {
      if (!completion.is_string()) {
        return place.WrongColumn(data_.completion_column(), "a string", completion);
      }
      return EncodeStrings(prompt.get<std::string>(), completion.get<std::string>());
    }
    if (!CheckMessages(prompt).ok()) {
      return place.WrongColumn(data_.prompt_column(), "a string or a list of messages with roles",
                               prompt);
    }
    nlohmann::json messages = prompt;
    if (completion.is_string()) {
      messages.push_back({{"role", "assistant"}, {"content", completion}});
    } else if (CheckMessages(completion).ok()) {
      messages.insert(messages.end(), completion.begin(), completion.end());
    } else {
      return place.WrongColumn(data_.completion_column(),
                               "a string or a list of messages with roles", completion);
    }
    return AtPlace(place, EncodeChat(tokenizer_, messages, prompt.size()));
  }

  absl::StatusOr<MaskedTokens> EncodeMessages(const RowPlace& place, const nlohmann::json& row,
                                              const std::string& column) const {
    if (!row.contains(column)) {
      return place.Error(
          absl::StrCat("expected a column \"", data_.prompt_column(), "\" or \"", column, "\""));
    }
    if (!CheckMessages(row[column]).ok()) {
      return place.WrongColumn(column, "a list of messages with roles", row[column]);
    }
    return AtPlace(place, EncodeChat(tokenizer_, row[column], 0));
  }

  absl::StatusOr<MaskedTokens> EncodeStrings(const std::string& prompt,
                                             const std::string& completion) const {
    MaskedTokens tokens;
    ROLLCALL_ASSIGN_OR_RETURN(tokens.token_ids,
                              tokenizer_.Encode(prompt, data_.add_special_tokens()));
    ROLLCALL_ASSIGN_OR_RETURN(std::vector<uint32_t> rest,
                              EncodeContinuation(tokenizer_, prompt, tokens.token_ids,
                                                 prompt + completion, data_.add_special_tokens()));
    if (data_.append_eos()) {
      const std::optional<uint32_t> eos = tokenizer_.eos_id();
      if (!eos.has_value()) {
        return absl::FailedPreconditionError(
            "data.append_eos is set, but the tokenizer names no end-of-sequence token");
      }
      if (rest.empty() || rest.back() != *eos) rest.push_back(*eos);
    }
    tokens.loss_mask.assign(tokens.token_ids.size(), 0);
    tokens.loss_mask.insert(tokens.loss_mask.end(), rest.size(), 1);
    tokens.token_ids.insert(tokens.token_ids.end(), rest.begin(), rest.end());
    return tokens;
  }

  static absl::StatusOr<MaskedTokens> AtPlace(const RowPlace& place,
                                              absl::StatusOr<MaskedTokens> tokens) {
    return Annotate(std::move(tokens), absl::StrCat(place.path, ":", place.line));
  }

  const v1::DataSection& data_;
  const text::Tokenizer& tokenizer_;
  const uint64_t max_sequence_tokens_;
};

}  // namespace

absl::StatusOr<DemonstrationSet> LoadDemonstrations(
    const v1::DataSection& data, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
    const text::Tokenizer& tokenizer, uint64_t max_sequence_tokens) {
  const DemonstrationReader reader(data, tokenizer, max_sequence_tokens);
  RowPolicy policy(data);
  DemonstrationSet set;
  for (const v1::DataSource& source : sources) {
    const auto on_row = [&](const RowPlace& place, absl::StatusOr<nlohmann::json> row) {
      if (!row.ok()) return policy.OnBadRow(row.status());
      auto tokens = reader.Read(place, *row);
      if (!tokens.ok()) return policy.OnBadRow(tokens.status());
      if (absl::Status fits = reader.CheckLength(place, *tokens); !fits.ok()) {
        return policy.OnLongRow(fits);
      }
      set.rows.push_back(*std::move(tokens));
      return absl::OkStatus();
    };
    ROLLCALL_RETURN_IF_ERROR(ForEachJsonRow(source.path(), on_row));
  }
  set.left_out = policy.left_out();
  if (set.rows.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("no demonstration in data.train: ", set.left_out.unreadable, " rows skipped, ",
                     set.left_out.too_long, " dropped for their length"));
  }
  return set;
}

absl::StatusOr<TrainBatch> DemonstrationSource::Next(uint64_t step) {
  if (step == 0) return absl::InvalidArgumentError("steps are counted from 1");
  TrainBatch batch;
  double tokens = 0, taught = 0;
  const uint64_t first = (step - 1) * sequences_per_step_;
  for (uint64_t ordinal = first; ordinal < first + sequences_per_step_; ++ordinal) {
    const MaskedTokens& row = set_->rows[order_.RowAt(ordinal)];
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
