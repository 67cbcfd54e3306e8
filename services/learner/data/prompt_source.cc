#include "services/learner/data/prompt_source.h"

#include "common/base/status.h"

namespace rollcall::learner {

absl::StatusOr<v1::PromptRow> PromptSource::PromptAt(uint64_t ordinal) const {
  ROLLCALL_ASSIGN_OR_RETURN(const auto drawn, examples_->At(ordinal));
  v1::PromptRow prompt = *drawn.example;
  prompt.set_epoch(drawn.epoch);
  return prompt;
}

v1::DataCursor PromptSource::CursorAt(uint64_t ordinal) const {
  v1::DataCursor cursor;
  cursor.set_epoch(examples_->EpochOf(ordinal));
  cursor.set_offset(ordinal % examples_->rows());
  return cursor;
}

}  // namespace rollcall::learner
