#pragma once

#include <google/protobuf/repeated_ptr_field.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/tokenizer.h"
#include "rollcall/v1/config.pb.h"
#include "services/learner/batching/batch.h"
#include "services/learner/data/chat_encoding.h"
#include "services/learner/data/examples.h"

namespace rollcall::learner {

// Demonstrations for supervised fine-tuning, tokenised, in the order of their files.
using DemonstrationSet = ExampleSet<MaskedTokens>;

// Reads demonstrations. A row has data.prompt_column and data.completion_column, else a chat in
// data.messages_column, else data.question_column and its answer (FindAnswer):
//   strings            the loss is on the completion, ended by the end-of-sequence token where
//                      data.append_eos says so
//   lists of messages  joined (a string completion is an assistant's message); the loss is on what
//                      the assistant says in the completion
//   a chat             the loss is on everything that the assistant says
// Chats end as their template ends them; append_eos does not touch them.
//
// A row whose prompt (tokens before the first taught one) is longer than data.max_prompt_tokens, or
// that is longer than `max_sequence_tokens` (the model's context; 0: no bound) in all, is treated
// as data.on_long_prompt says; truncating drops the beginning of its prompt, and is an error where
// the rest alone is too long. Errors are those of LoadPrompts; FAILED_PRECONDITION also when
// append_eos is set and the tokenizer has no such token.
absl::StatusOr<DemonstrationSet> LoadDemonstrations(
    const v1::DataSection& data, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
    const text::Tokenizer& tokenizer, uint64_t max_sequence_tokens);

// The same in memory, or streamed where the files' text takes more than `memory_bytes`; `data` and
// `tokenizer` must outlive it. Also the statuses of RowStream::Open.
absl::StatusOr<std::shared_ptr<const Examples<MaskedTokens>>> OpenDemonstrations(
    const v1::DataSection& data, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
    const text::Tokenizer& tokenizer, uint64_t max_sequence_tokens, uint64_t seed,
    uint64_t memory_bytes = kMemoryBytes);

// Batches of demonstrations: that of step s is a pure function of rows, seed and s. Endless.
class DemonstrationSource final : public BatchSource {
 public:
  // sequences_per_step >= 1.
  DemonstrationSource(std::shared_ptr<const Examples<MaskedTokens>> examples,
                      uint32_t sequences_per_step)
      : examples_(std::move(examples)), sequences_per_step_(sequences_per_step) {}
  // `set` holds at least one row, as LoadDemonstrations promises.
  DemonstrationSource(const std::shared_ptr<const DemonstrationSet>& set, uint64_t seed,
                      bool shuffle, uint32_t sequences_per_step)
      : DemonstrationSource(std::make_shared<const LoadedExamples<MaskedTokens>>(
                                std::shared_ptr<const std::vector<MaskedTokens>>(set, &set->rows),
                                seed, shuffle, set->sources, set->left_out),
                            sequences_per_step) {}

  // Metrics: length/mean (tokens), length/completion_mean, and those of DrawBatch. INVALID_ARGUMENT
  // when step is 0; else the statuses of DrawBatch. Blocks on the disk where examples are streamed.
  absl::StatusOr<TrainBatch> Next(uint64_t step) override;

 private:
  const std::shared_ptr<const Examples<MaskedTokens>> examples_;
  const uint32_t sequences_per_step_;
};

}  // namespace rollcall::learner
