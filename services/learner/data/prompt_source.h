#pragma once

#include <cstdint>
#include <memory>

#include "rollcall/v1/checkpoint.pb.h"
#include "rollcall/v1/rollout.pb.h"
#include "services/learner/data/mixture_order.h"
#include "services/learner/data/prompt_set.h"

namespace rollcall::learner {

// The endless sequence of training prompts: the n-th is a pure function of the rows, the seed and
// n, so a run resumes from the ordinal alone (a group's id is the ordinal of its prompt).
// Immutable; any number of threads may read it.
class PromptSource {
 public:
  // `set` holds at least one row, as LoadPrompts promises.
  PromptSource(std::shared_ptr<const PromptSet> set, uint64_t seed, bool shuffle)
      : set_(std::move(set)), order_(seed, set_->rows.size(), shuffle, set_->sources) {}

  // The prompt at `ordinal`, counted from 0, with its epoch.
  v1::PromptRow PromptAt(uint64_t ordinal) const;

  // Where `ordinal` stands, for checkpoints and metrics.
  v1::DataCursor CursorAt(uint64_t ordinal) const;

  uint64_t rows() const { return order_.rows(); }
  const LeftOutRows& left_out() const { return set_->left_out; }

 private:
  const std::shared_ptr<const PromptSet> set_;
  const MixtureOrder order_;
};

}  // namespace rollcall::learner
