// parquet_rows read FILE           the rows of a Parquet file as JSON lines
// parquet_rows write FILE CODEC    JSON lines from stdin as a Parquet file of 3 rows a row group
#include <cstdio>
#include <iostream>
#include <iterator>
#include <string>

#include "absl/status/status.h"
#include "common/base/status.h"
#include "common/text/parquet_file.h"

namespace rollcall {
namespace {

absl::Status Print(const std::string& path) {
  ROLLCALL_ASSIGN_OR_RETURN(const auto file, text::ParquetFile::Open(path));
  for (size_t group = 0; group < file->row_groups().size(); ++group) {
    ROLLCALL_ASSIGN_OR_RETURN(const std::string rows,
                              file->ReadRows(group, 0, file->row_groups()[group].rows));
    std::fputs(rows.c_str(), stdout);
  }
  return absl::OkStatus();
}

absl::Status Run(int argc, char** argv) {
  const std::string what = argc > 2 ? argv[1] : "";
  if (what == "read" && argc == 3) return Print(argv[2]);
  if (what == "write" && argc == 4) {
    const std::string rows{std::istreambuf_iterator<char>(std::cin), {}};
    return text::WriteParquet(argv[2], rows, 3, argv[3]);
  }
  return absl::InvalidArgumentError("usage: parquet_rows read FILE | write FILE CODEC");
}

}  // namespace
}  // namespace rollcall

int main(int argc, char** argv) {
  const absl::Status status = rollcall::Run(argc, argv);
  if (status.ok()) return 0;
  std::cerr << status << "\n";
  return 1;
}
