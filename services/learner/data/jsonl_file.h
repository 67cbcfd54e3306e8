#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace rollcall::learner {

// Longer lines are refused: a prompt of a million tokens takes 4 to 5 MB.
inline constexpr size_t kMaxLineBytes = size_t{16} << 20;
// Deeper rows are refused; 64 levels in a column are what verifiers can be sent.
inline constexpr int kMaxRowDepth = 66;

// Where a row stands, for messages: "path:line".
struct RowPlace {
  const std::string& path;
  // Counted from 1.
  uint64_t line = 0;
  // Counted from 0, without blank lines.
  uint64_t row = 0;

  // "path:line".
  std::string Name() const;
  // "path:line: column "prompt": expected a string, got number 3".
  absl::Status WrongColumn(std::string_view column, std::string_view expected,
                           const nlohmann::json& got) const;
  // "path:line: <message>", INVALID_ARGUMENT.
  absl::Status Error(std::string_view message) const;
};

// Calls `on_row` for each line of a JSONL file in turn, with the object in it, or with the status
// of a line that is not a JSON object (INVALID_ARGUMENT "path:line: byte N: …"): not JSON, not
// UTF-8, NUL bytes, more than kMaxLineBytes. Lines end with "\n"; blank ones are passed over, as is
// a byte order mark at the start. Holds one line at a time. Stops at the first error that `on_row`
// returns and returns it. NOT_FOUND or PERMISSION_DENIED when the file cannot be read,
// INVALID_ARGUMENT for a folder, UTF-16 text, and Parquet or compressed files, with what to do.
absl::Status ForEachJsonRow(
    const std::string& path,
    const std::function<absl::Status(const RowPlace&, absl::StatusOr<nlohmann::json>)>& on_row);

}  // namespace rollcall::learner
