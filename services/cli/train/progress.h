#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "absl/time/time.h"

namespace rollcall::cli {

// What a person sees of a run: one line that follows it and a curve of what happened. Pure: text
// from numbers.

struct ProgressState {
  uint64_t step = 0;
  uint64_t total_steps = 0;
  // Of the newest step, by the names of metrics.jsonl.
  std::map<std::string, double> values;
  absl::Duration elapsed;
  // Steps done since `elapsed` began (a resumed run starts above 0).
  uint64_t steps_done = 0;
  // Instead of figures while nothing was trained yet: "waiting for generator-0".
  std::string waiting_for;
};

// "step 12/40  reward 0.810  KL 0.0031  length 26.4  1,912 tok/s  ETA 0:23". Values that the state
// lacks are left out.
std::string FormatLiveLine(const ProgressState& state);

// "0:23", "1:02:03".
std::string FormatClock(absl::Duration duration);

// The values, in order, as a chart of `width` x `height` characters with the scale on the left and
// "0 … last" below. Each column is the mean of its share of the values. Empty for no values.
std::string RenderCurve(std::span<const double> values, size_t width, size_t height);

}  // namespace rollcall::cli
