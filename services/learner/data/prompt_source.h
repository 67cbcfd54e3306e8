#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "rollcall/v1/checkpoint.pb.h"
#include "rollcall/v1/rollout.pb.h"
#include "services/learner/data/examples.h"
#include "services/learner/data/prompt_set.h"

namespace rollcall::learner {

// The endless sequence of training prompts: the n-th is a pure function of the rows, the seed and
// n, so a run resumes from the ordinal alone (a group's id is the ordinal of its prompt).
// Thread-safe.
class PromptSource {
 public:
  explicit PromptSource(std::shared_ptr<const Examples<v1::PromptRow>> examples)
      : examples_(std::move(examples)) {}
  // `set` holds at least one row, as LoadPrompts promises.
  PromptSource(const std::shared_ptr<const PromptSet>& set, uint64_t seed, bool shuffle)
      : PromptSource(std::make_shared<const LoadedExamples<v1::PromptRow>>(
            std::shared_ptr<const std::vector<v1::PromptRow>>(set, &set->rows), seed, shuffle,
            set->sources, set->left_out)) {}

  // The prompt at `ordinal`, counted from 0, with its epoch. Statuses of Examples::At; blocks on the
  // disk where prompts are streamed.
  absl::StatusOr<v1::PromptRow> PromptAt(uint64_t ordinal) const;

  // Where `ordinal` stands, for checkpoints and metrics.
  v1::DataCursor CursorAt(uint64_t ordinal) const;

  uint64_t rows() const { return examples_->rows(); }
  LeftOutRows left_out() const { return examples_->left_out(); }

 private:
  const std::shared_ptr<const Examples<v1::PromptRow>> examples_;
};

}  // namespace rollcall::learner
