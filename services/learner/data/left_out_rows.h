#pragma once

#include <cstdint>

namespace rollcall::learner {

// How many rows of the files are not in a set that was read from them, or not whole.
struct LeftOutRows {
  uint64_t unreadable = 0;  // data.on_bad_row: skip
  uint64_t too_long = 0;    // data.on_long_prompt: drop
  // Left in, without the beginning of their prompt (data.on_long_prompt: truncate).
  uint64_t truncated = 0;
};

}  // namespace rollcall::learner
