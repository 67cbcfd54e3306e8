#include "services/learner/data/jsonl_file.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace rollcall::learner {
namespace {

// Values are shown up to this many bytes.
constexpr size_t kShownBytes = 60;
constexpr size_t kReadBytes = size_t{1} << 20;

struct TooDeep {};

absl::StatusOr<nlohmann::json> ParseObject(const RowPlace& place, std::string_view line) {
  if (const size_t at = line.find('\0'); at != std::string_view::npos) {
    return place.Error(absl::StrCat("byte ", at + 1, ": expected text, got a NUL byte: save the file as UTF-8"));
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

absl::Status SystemError(const std::string& path, const char* what) {
  return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot ", what));
}

// What a file is that does not begin as JSON Lines do, and what to do; empty: nothing that is
// known.
std::string_view ForeignFormat(std::string_view start) {
  if (start.starts_with("\xff\xfe") || start.starts_with("\xfe\xff")) {
    return "UTF-16 text: convert it (iconv -f UTF-16 -t UTF-8)";
  }
  if (start.starts_with("PAR1")) return "a Parquet file: let its name end in .parquet";
  if (start.starts_with("\x1f\x8b")) return "a gzip file: unpack it (gunzip)";
  if (start.starts_with("\x28\xb5\x2f\xfd")) return "a Zstandard file: unpack it (unzstd)";
  return {};
}

// The lines of a file, of which no more than one and a block are in memory.
class LineReader {
 public:
  static absl::StatusOr<LineReader> Open(const std::string& path) {
    struct stat about {};
    if (stat(path.c_str(), &about) != 0) return SystemError(path, "open");
    if (S_ISDIR(about.st_mode)) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": expected a file, got a folder"));
    }
    LineReader reader(path, fopen(path.c_str(), "rb"));
    if (reader.file_ == nullptr) return SystemError(path, "open");
    return reader;
  }

  // Puts the next line, without its "\n", into line(); false at the end of the file. Of a line that
  // is longer than kMaxLineBytes, too_long() is true and the text is not there.
  absl::StatusOr<bool> Next() {
    line_.clear();
    too_long_ = false;
    bool any = false;
    while (true) {
      if (begin_ == end_) {
        ROLLCALL_RETURN_IF_ERROR(Fill());
        if (begin_ == end_) return any;
      }
      any = true;
      const std::string_view rest(block_.data() + begin_, end_ - begin_);
      const size_t length = std::min(rest.find('\n'), rest.size());
      if (line_.size() + length > kMaxLineBytes) {
        too_long_ = true;
        line_.clear();
      }
      if (!too_long_) line_.append(rest.substr(0, length));
      begin_ += length;
      if (begin_ == end_) continue;
      ++begin_;
      return true;
    }
  }

  std::string_view line() const { return line_; }
  bool too_long() const { return too_long_; }

 private:
  LineReader(std::string path, FILE* file)
      : path_(std::move(path)), file_(file, &fclose), block_(kReadBytes, '\0') {}

  absl::Status Fill() {
    begin_ = 0;
    end_ = fread(block_.data(), 1, block_.size(), file_.get());
    if (end_ == 0 && ferror(file_.get()) != 0) return SystemError(path_, "read");
    if (!std::exchange(started_, true)) {
      const std::string_view start(block_.data(), end_);
      if (const std::string_view format = ForeignFormat(start); !format.empty()) {
        return absl::InvalidArgumentError(
            absl::StrCat(path_, ": expected JSON Lines in UTF-8, got ", std::string(format)));
      }
      if (start.starts_with("\xef\xbb\xbf")) begin_ = 3;  // a byte order mark, as Windows writes it
    }
    return absl::OkStatus();
  }

  std::string path_;
  std::unique_ptr<FILE, int (*)(FILE*)> file_;
  std::string block_;
  size_t begin_ = 0, end_ = 0;  // what is left of block_
  bool started_ = false;
  std::string line_;
  bool too_long_ = false;
};

}  // namespace

std::string RowPlace::Name() const { return absl::StrCat(path, ":", line); }

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

absl::Status ForEachJsonRow(
    const std::string& path,
    const std::function<absl::Status(const RowPlace&, absl::StatusOr<nlohmann::json>)>& on_row) {
  ROLLCALL_ASSIGN_OR_RETURN(LineReader reader, LineReader::Open(path));
  RowPlace place{.path = path};
  while (true) {
    ROLLCALL_ASSIGN_OR_RETURN(const bool more, reader.Next());
    if (!more) return absl::OkStatus();
    ++place.line;
    if (reader.too_long()) {
      ROLLCALL_RETURN_IF_ERROR(
          on_row(place, place.Error(absl::StrCat("expected a line of at most ", kMaxLineBytes >> 20,
                                                 " MiB, got a longer one: is this one JSON value "
                                                 "over the whole file? Write one object a line"))));
    } else if (reader.line().find_first_not_of(" \t\r") == std::string_view::npos) {
      continue;
    } else {
      ROLLCALL_RETURN_IF_ERROR(on_row(place, ParseObject(place, reader.line())));
    }
    ++place.row;
  }
}

}  // namespace rollcall::learner
