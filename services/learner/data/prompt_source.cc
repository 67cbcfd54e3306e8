#include "services/learner/data/prompt_source.h"

namespace rollcall::learner {

v1::PromptRow PromptSource::PromptAt(uint64_t ordinal) const {
  const MixtureOrder::Draw draw = order_.At(ordinal);
  v1::PromptRow prompt = set_->rows[draw.row];
  prompt.set_epoch(draw.epoch);
  return prompt;
}

v1::DataCursor PromptSource::CursorAt(uint64_t ordinal) const {
  v1::DataCursor cursor;
  cursor.set_epoch(order_.EpochOf(ordinal));
  cursor.set_offset(ordinal % order_.rows());
  return cursor;
}

}  // namespace rollcall::learner
