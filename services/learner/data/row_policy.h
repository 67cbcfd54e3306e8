#pragma once

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/logging.h"
#include "rollcall/v1/config.pb.h"
#include "services/learner/data/prompt_set.h"

namespace rollcall::learner {

// What becomes of rows that cannot be used: the first error that ends the reading, or a count.
class RowPolicy {
 public:
  explicit RowPolicy(const v1::DataSection& data) : data_(data) {}

  // OK: the row is left out and counted.
  absl::Status OnBadRow(const absl::Status& error) {
    // A missing template or an unreadable file is no fault of the row.
    if (!absl::IsInvalidArgument(error)) return error;
    if (data_.on_bad_row() != v1::BAD_ROW_SKIP) {
      return Hint(error, "data.on_bad_row: skip leaves such rows out");
    }
    if (left_out_.unreadable++ == 0) LogWarning("a row is skipped", {{"error", error}});
    return absl::OkStatus();
  }
  // The row is to be cut to the length that is allowed.
  bool truncates() const { return data_.on_long_prompt() == v1::LONG_PROMPT_TRUNCATE; }
  void CountTruncated(const absl::Status& error) {
    if (left_out_.truncated++ == 0) LogWarning("a row is truncated", {{"error", error}});
  }
  // OK: the row is left out and counted.
  absl::Status OnLongRow(const absl::Status& error) {
    if (data_.on_long_prompt() == v1::LONG_PROMPT_ERROR) {
      return Hint(error,
                  "data.on_long_prompt: drop leaves such rows out, truncate keeps their end");
    }
    if (data_.on_long_prompt() != v1::LONG_PROMPT_DROP) return error;
    if (left_out_.too_long++ == 0) LogWarning("a row is dropped", {{"error", error}});
    return absl::OkStatus();
  }

  const LeftOutRows& left_out() const { return left_out_; }

 private:
  static absl::Status Hint(const absl::Status& error, const char* hint) {
    return absl::Status(error.code(), absl::StrCat(error.message(), " (", hint, ")"));
  }

  const v1::DataSection& data_;
  LeftOutRows left_out_;
};

}  // namespace rollcall::learner
