#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace rollcall::learner {

// Where a row stands, for messages: "path:line".
struct RowPlace {
  const std::string& path;
  // Counted from 1.
  uint64_t line = 0;
  // Counted from 0, without blank lines.
  uint64_t row = 0;

  // "path:line: column "prompt": expected a string, got number 3".
  absl::Status WrongColumn(std::string_view column, std::string_view expected,
                           const nlohmann::json& got) const;
  // "path:line: <message>", INVALID_ARGUMENT.
  absl::Status Error(std::string_view message) const;
};

// Calls `on_row` for each line of a JSONL file in turn, with the object in it, or with the status
// of a line that is not a JSON object (INVALID_ARGUMENT "path:line: byte N: …"). Lines end with
// "\n"; blank ones are passed over. Stops at the first error that `on_row` returns and returns it.
// NOT_FOUND or PERMISSION_DENIED when the file cannot be read.
absl::Status ForEachJsonRow(
    const std::string& path,
    const std::function<absl::Status(const RowPlace&, absl::StatusOr<nlohmann::json>)>& on_row);

}  // namespace rollcall::learner
