#include "services/learner/data/source_files.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "services/learner/data/row_file.h"

namespace rollcall::learner {
namespace {

using Sources = google::protobuf::RepeatedPtrField<v1::DataSource>;

absl::Status NothingIn(const std::string& files, const LeftOutRows& left_out) {
  return absl::InvalidArgumentError(absl::StrCat("no row to use in ", files, ": ",
                                                 left_out.unreadable, " rows skipped, ",
                                                 left_out.too_long, " dropped for their length"));
}

}  // namespace

absl::StatusOr<bool> HaveWeights(const Sources& sources) {
  const auto has = [](const v1::DataSource& source) { return source.has_weight(); };
  const auto without = std::find_if_not(sources.begin(), sources.end(), has);
  if (without == sources.end()) {
    for (const v1::DataSource& source : sources) {
      if (source.weight() > 0 && std::isfinite(source.weight())) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          source.path(), ": weight: expected a number above 0, got ", source.weight()));
    }
    return !sources.empty();
  }
  if (std::none_of(sources.begin(), sources.end(), has)) return false;
  return absl::InvalidArgumentError(absl::StrCat(
      without->path(), ": expected a weight, as other data sources of the list have one"));
}

absl::StatusOr<std::vector<SourceRows>> ReadSources(const Sources& sources, const RowPolicy& policy,
                                                    const OnSourceRow& on_row,
                                                    const std::function<uint64_t()>& kept) {
  ROLLCALL_ASSIGN_OR_RETURN(const bool weighted, HaveWeights(sources));
  std::vector<SourceRows> rows;
  for (int index = 0; index < sources.size(); ++index) {
    const uint64_t before = kept();
    const auto on_line = [&](const RowPlace& place, const absl::StatusOr<nlohmann::json>& row) {
      return on_row(index, place, row);
    };
    const std::string& path = sources[index].path();
    ROLLCALL_RETURN_IF_ERROR(IsParquet(path) ? ForEachParquetRow(path, on_line)
                                             : ForEachJsonRow(path, on_line));
    if (!weighted) continue;
    rows.push_back({.rows = kept() - before, .weight = sources[index].weight()});
    if (rows.back().rows == 0) return NothingIn(sources[index].path(), policy.left_out());
  }
  if (kept() == 0) {
    std::string files = sources.empty() ? "an empty list of files" : sources[0].path();
    if (sources.size() > 1) files += " and the other files";
    return NothingIn(files, policy.left_out());
  }
  return rows;
}

}  // namespace rollcall::learner
