#include "services/learner/data/jsonl_file.h"

#include <string_view>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "services/learner/data/line_reader.h"

namespace rollcall::learner {
namespace {

// Values are shown up to this many bytes.
constexpr size_t kShownBytes = 60;

struct TooDeep {};

}  // namespace

std::string RowPlace::Name() const {
  if (!row_group.has_value()) return absl::StrCat(path, ":", line);
  return absl::StrCat(path, ": row ", row + 1, " (in row group ", *row_group, ")");
}

absl::Status RowPlace::Error(std::string_view message) const {
  return absl::InvalidArgumentError(absl::StrCat(Name(), ": ", std::string(message)));
}

absl::Status RowPlace::WrongColumn(std::string_view column, std::string_view expected,
                                   const nlohmann::json& got) const {
  std::string shown = got.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  if (shown.size() > kShownBytes) shown = shown.substr(0, kShownBytes) + "…";
  return Error(absl::StrCat("column \"", std::string(column), "\": expected ",
                            std::string(expected), ", got ", got.type_name(), " ", shown));
}

absl::StatusOr<nlohmann::json> ParseRow(const RowPlace& place, std::string_view line) {
  if (const size_t at = line.find('\0'); at != std::string_view::npos) {
    return place.Error(
        absl::StrCat("byte ", at + 1, ": expected text, got a NUL byte: save the file as UTF-8"));
  }
  const auto check_depth = [](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    if (depth > kMaxRowDepth) throw TooDeep();
    return true;
  };
  try {
    nlohmann::json value = nlohmann::json::parse(line, check_depth);
    if (value.is_object()) return value;
    return place.Error(absl::StrCat("expected a JSON object, got ", value.type_name(),
                                    value.is_array() ? ": write one object a line (jq -c '.[]')"
                                                     : ": write {\"column\": value, …}"));
  } catch (const nlohmann::json::parse_error& error) {
    const bool encoding = absl::StrContains(error.what(), "UTF-8");
    return place.Error(absl::StrCat(
        "byte ", error.byte,
        encoding ? ": not valid UTF-8: save the file as UTF-8 (iconv -f LATIN1 -t UTF-8)"
                 : ": not valid JSON: each line is to be one whole object (jq -c makes it so)"));
  } catch (const nlohmann::json::out_of_range&) {
    return place.Error("expected numbers within the range of float64: write this one as a string");
  } catch (const TooDeep&) {
    return place.Error(absl::StrCat("expected at most ", kMaxRowDepth, " levels of nesting"));
  }
}

absl::Status TooLongLine(const RowPlace& place) {
  return place.Error(absl::StrCat("expected a line of at most ", kMaxLineBytes >> 20,
                                  " MiB, got a longer one: is this one JSON value over the whole "
                                  "file? Write one object a line"));
}

absl::Status ForEachJsonRow(const std::string& path, const OnJsonRow& on_row) {
  ROLLCALL_ASSIGN_OR_RETURN(LineReader reader, LineReader::Open(path));
  RowPlace place{.path = path};
  while (true) {
    ROLLCALL_ASSIGN_OR_RETURN(const bool more, reader.Next());
    if (!more) return absl::OkStatus();
    ++place.line;
    if (reader.blank()) continue;
    ROLLCALL_RETURN_IF_ERROR(
        on_row(place, reader.too_long() ? TooLongLine(place) : ParseRow(place, reader.line())));
    ++place.row;
  }
}

}  // namespace rollcall::learner
