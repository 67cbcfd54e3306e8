#pragma once

#include <google/protobuf/repeated_ptr_field.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/tokenizer.h"
#include "rollcall/v1/config.pb.h"
#include "services/learner/batching/batch.h"
#include "services/learner/data/chat_encoding.h"
#include "services/learner/data/examples.h"

namespace rollcall::learner {

// Two completions of one prompt, the first preferred.
struct PreferencePair {
  MaskedTokens chosen;
  MaskedTokens rejected;
  // By how much, in the reward's units; 0 where the row does not say.
  double margin = 0;
  // How probable it is that `chosen` is the better one, 0.5 to 1.
  double preference = 1;
};

// Preferences, tokenised, in the order of their files.
struct PreferenceSet {
  std::vector<PreferencePair> pairs;
  // Of the files in turn, where they have weights; else empty.
  std::vector<SourceRows> sources;
  LeftOutRows left_out;
};

// Reads pairs, of rows as SplitPair knows them. Each of the two completions is encoded as
// LoadDemonstrations encodes one; columns named by data.margin_column and data.preference_column are
// numbers that every row has. The latter is the probability that its chosen completion is the
// better one; below one half the two change places, so that `chosen` is always the likelier one.
// Two completions of the same tokens are an error, for neither is preferred. Errors and bounds on
// lengths are those of LoadDemonstrations, for both completions; truncating drops the same beginning
// of the prompt from both.
absl::StatusOr<PreferenceSet> LoadPreferences(
    const v1::DataSection& data, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
    const text::Tokenizer& tokenizer, uint64_t max_sequence_tokens);

// The same in memory, or streamed where the files' text takes more than `memory_bytes`; `data` and
// `tokenizer` must outlive it. Also the statuses of RowStream::Open.
absl::StatusOr<std::shared_ptr<const Examples<PreferencePair>>> OpenPreferences(
    const v1::DataSection& data, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
    const text::Tokenizer& tokenizer, uint64_t max_sequence_tokens, uint64_t seed,
    uint64_t memory_bytes = kMemoryBytes);

// The pairs as a batch that the trainer takes in stages reward_model, dpo, simpo and orpo: 2 * i is
// a pair's chosen sequence, 2 * i + 1 its rejected one.
TrainBatch BatchOfPairs(const std::vector<const PreferencePair*>& pairs);

// Batches of pairs: that of step s is a pure function of pairs, seed and s. Endless.
class PreferenceSource final : public BatchSource {
 public:
  // pairs_per_step >= 1.
  PreferenceSource(std::shared_ptr<const Examples<PreferencePair>> examples,
                   uint32_t pairs_per_step)
      : examples_(std::move(examples)), pairs_per_step_(pairs_per_step) {}
  // `set` holds at least one pair, as LoadPreferences promises.
  PreferenceSource(const std::shared_ptr<const PreferenceSet>& set, uint64_t seed, bool shuffle,
                   uint32_t pairs_per_step)
      : PreferenceSource(std::make_shared<const LoadedExamples<PreferencePair>>(
                             std::shared_ptr<const std::vector<PreferencePair>>(set, &set->pairs),
                             seed, shuffle, set->sources, set->left_out),
                         pairs_per_step) {}

  // Metrics: length/mean (tokens), and those of DrawBatch. INVALID_ARGUMENT when step is 0; else the
  // statuses of DrawBatch. Blocks on the disk where examples are streamed.
  absl::StatusOr<TrainBatch> Next(uint64_t step) override;

 private:
  const std::shared_ptr<const Examples<PreferencePair>> examples_;
  const uint32_t pairs_per_step_;
};

}  // namespace rollcall::learner
