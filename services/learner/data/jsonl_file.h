#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace rollcall::learner {

// Deeper rows are refused; 64 levels in a column are what verifiers can be sent.
inline constexpr int kMaxRowDepth = 66;

// Where a row stands, for messages.
struct RowPlace {
  const std::string& path;
  // Counted from 1.
  uint64_t line = 0;
  // Counted from 0, without blank lines.
  uint64_t row = 0;
  // Of a Parquet file, counted from 0; it has no lines.
  std::optional<uint64_t> row_group = std::nullopt;

  // "path:line", or "path: row 8 (in row group 0)" where rows count from 1.
  std::string Name() const;
  // "path:line: column "prompt": expected a string, got number 3".
  absl::Status WrongColumn(std::string_view column, std::string_view expected,
                           const nlohmann::json& got) const;
  // "path:line: <message>", INVALID_ARGUMENT.
  absl::Status Error(std::string_view message) const;
};

// The object on a line, or with which INVALID_ARGUMENT it is none ("path:line: byte N: …"): not
// JSON, not UTF-8, NUL bytes.
absl::StatusOr<nlohmann::json> ParseRow(const RowPlace& place, std::string_view line);
// INVALID_ARGUMENT for a line of more than kMaxLineBytes.
absl::Status TooLongLine(const RowPlace& place);

using OnJsonRow =
    std::function<absl::Status(const RowPlace& place, absl::StatusOr<nlohmann::json> row)>;

// Calls `on_row` for each line of a JSONL file in turn, with the object in it, or with the status
// of a line that is none. Lines end with "\n"; blank ones are passed over, as is a byte order mark
// at the start. Holds one line at a time. Stops at the first error that `on_row` returns and returns
// it; else the statuses of LineReader.
absl::Status ForEachJsonRow(const std::string& path, const OnJsonRow& on_row);

}  // namespace rollcall::learner
