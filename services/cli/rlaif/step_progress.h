#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/time/time.h"

namespace rollcall::cli {

// What a person sees of a step that samples, on standard output: on a terminal a line that is rewritten, elsewhere one
// now and then. Used from the main thread.
class StepProgress {
 public:
  // `done` of `total` items were made by an earlier start.
  StepProgress(bool quiet, std::string label, uint64_t total, uint64_t done);
  ~StepProgress();

  void Show(uint64_t done);

 private:
  const bool quiet_;
  const bool terminal_;
  const std::string label_;
  const uint64_t total_;
  const uint64_t resumed_;
  const absl::Time started_;
  absl::Time next_plain_;
  bool open_ = false;
};

// "revisions  [######......] 12/24  0:12 left".
std::string FormatProgress(const std::string& label, uint64_t done, uint64_t total,
                           uint64_t resumed, absl::Duration elapsed);

// A step's summary on one line: "answers 24, cut_off 2, left_out (empty 1, too_long 0)".
std::string FormatSummary(const nlohmann::ordered_json& summary);

}  // namespace rollcall::cli
