#include "services/learner/data/jsonl_file.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"

namespace rollcall::learner {
namespace {

// Values are shown up to this many bytes.
constexpr size_t kShownBytes = 60;

absl::StatusOr<nlohmann::json> ParseObject(const RowPlace& place, std::string_view line) {
  try {
    nlohmann::json value = nlohmann::json::parse(line);
    if (value.is_object()) return value;
    return place.Error(absl::StrCat("expected a JSON object, got ", value.type_name()));
  } catch (const nlohmann::json::parse_error& error) {
    return place.Error(absl::StrCat("byte ", error.byte, ": not valid JSON"));
  }
}

}  // namespace

absl::Status RowPlace::Error(std::string_view message) const {
  return absl::InvalidArgumentError(absl::StrCat(path, ":", line, ": ", std::string(message)));
}

absl::Status RowPlace::WrongColumn(std::string_view column, std::string_view expected,
                                   const nlohmann::json& got) const {
  std::string shown = got.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  if (shown.size() > kShownBytes) shown = shown.substr(0, kShownBytes) + "…";
  return Error(absl::StrCat("column \"", std::string(column), "\": expected ",
                            std::string(expected), ", got ", got.type_name(), " ", shown));
}

absl::Status ForEachJsonRow(
    const std::string& path,
    const std::function<absl::Status(const RowPlace&, absl::StatusOr<nlohmann::json>)>& on_row) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  std::string_view rest = text;
  RowPlace place{.path = path};
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    ++place.line;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    ROLLCALL_RETURN_IF_ERROR(on_row(place, ParseObject(place, line)));
    ++place.row;
  }
  return absl::OkStatus();
}

}  // namespace rollcall::learner
