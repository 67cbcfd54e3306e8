#pragma once

#include <atomic>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/logging.h"
#include "rollcall/v1/config.pb.h"
#include "services/learner/data/left_out_rows.h"

namespace rollcall::learner {

// What becomes of rows that cannot be used: the first error that ends the reading, or a count. The
// log has the first such row, the second, the fourth and so on. Thread-safe.
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
    Count("rows are skipped", error, unreadable_);
    return absl::OkStatus();
  }
  // The row is to be cut to the length that is allowed.
  bool truncates() const { return data_.on_long_prompt() == v1::LONG_PROMPT_TRUNCATE; }
  void CountTruncated(const absl::Status& error) { Count("rows are truncated", error, truncated_); }
  // OK: the row is left out and counted.
  absl::Status OnLongRow(const absl::Status& error) {
    if (truncates()) {
      return Hint(error, "too long without its prompt; data.on_long_prompt: drop leaves it out");
    }
    if (data_.on_long_prompt() != v1::LONG_PROMPT_DROP) {
      return Hint(error,
                  "data.on_long_prompt: drop leaves such rows out, truncate keeps their end");
    }
    Count("rows are dropped", error, too_long_);
    return absl::OkStatus();
  }

  LeftOutRows left_out() const {
    return {.unreadable = unreadable_, .too_long = too_long_, .truncated = truncated_};
  }

 private:
  static absl::Status Hint(const absl::Status& error, const char* hint) {
    return absl::Status(error.code(), absl::StrCat(error.message(), " (", hint, ")"));
  }
  static void Count(const char* what, const absl::Status& error, std::atomic<uint64_t>& counter) {
    const uint64_t count = ++counter;
    if ((count & (count - 1)) == 0) LogWarning(what, {{"count", count}, {"last", error}});
  }

  const v1::DataSection& data_;
  std::atomic<uint64_t> unreadable_ = 0, too_long_ = 0, truncated_ = 0;
};

}  // namespace rollcall::learner
