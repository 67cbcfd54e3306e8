#pragma once

#include <google/protobuf/repeated_ptr_field.h>

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/tokenizer.h"
#include "rollcall/v1/config.pb.h"
#include "services/learner/batching/batch.h"
#include "services/learner/data/chat_encoding.h"
#include "services/learner/data/examples.h"

namespace rollcall::learner {

// A completion that somebody liked or did not.
struct LabelledCompletion {
  MaskedTokens tokens;
  bool desirable = false;
};

// Labelled completions, tokenised, in the order of their files.
using LabelledSet = ExampleSet<LabelledCompletion>;

// Reads rows of a prompt, a completion and data.label_column (true or false, 1 or 0), prompt and
// completion as LoadDemonstrations reads them. Errors and bounds on lengths are those of
// LoadDemonstrations; INVALID_ARGUMENT also when all rows have the same label, for then nothing is
// compared.
absl::StatusOr<LabelledSet> LoadLabelledCompletions(
    const v1::DataSection& data, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
    const text::Tokenizer& tokenizer, uint64_t max_sequence_tokens);

// The same in memory, or streamed where the files' text takes more than `memory_bytes`; `data` and
// `tokenizer` must outlive it. Streamed rows may all have the same label: data/desirable shows it.
// Also the statuses of RowStream::Open.
absl::StatusOr<std::shared_ptr<const Examples<LabelledCompletion>>> OpenLabelledCompletions(
    const v1::DataSection& data, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
    const text::Tokenizer& tokenizer, uint64_t max_sequence_tokens, uint64_t seed,
    uint64_t memory_bytes = kMemoryBytes);

// The rows as a batch that the trainer takes in stage kto: 2 * i is a row, 2 * i + 1 its prompt
// with the completion of the row before it (that of the first is the last one's), from which KTO
// estimates the KL to the reference (arXiv 2402.01306, section 4.2; TRL pairs them the same way).
// Such a sequence ends at `max_sequence_tokens` (0: no bound). A batch of one row has no mismatched
// completion and takes its own.
TrainBatch BatchOfLabelled(std::span<const LabelledCompletion* const> rows,
                           uint64_t max_sequence_tokens);

// Batches of labelled completions: that of step s is a pure function of rows, seed and s. Endless.
class LabelledSource final : public BatchSource {
 public:
  // completions_per_step >= 1.
  LabelledSource(std::shared_ptr<const Examples<LabelledCompletion>> examples,
                 uint32_t completions_per_step, uint64_t max_sequence_tokens)
      : examples_(std::move(examples)),
        completions_per_step_(completions_per_step),
        max_sequence_tokens_(max_sequence_tokens) {}
  // `set` holds at least one row, as LoadLabelledCompletions promises.
  LabelledSource(const std::shared_ptr<const LabelledSet>& set, uint64_t seed, bool shuffle,
                 uint32_t completions_per_step, uint64_t max_sequence_tokens)
      : LabelledSource(std::make_shared<const LoadedExamples<LabelledCompletion>>(
                           std::shared_ptr<const std::vector<LabelledCompletion>>(set, &set->rows),
                           seed, shuffle, set->sources, set->left_out),
                       completions_per_step, max_sequence_tokens) {}

  // Metrics: length/mean (tokens of a row), data/desirable (share), and those of DrawBatch.
  // INVALID_ARGUMENT when step is 0; else the statuses of DrawBatch. Blocks on the disk where
  // examples are streamed.
  absl::StatusOr<TrainBatch> Next(uint64_t step) override;

 private:
  const std::shared_ptr<const Examples<LabelledCompletion>> examples_;
  const uint32_t completions_per_step_;
  const uint64_t max_sequence_tokens_;
};

}  // namespace rollcall::learner
