#include "services/cli/explain/preset_changes.h"

#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/config/algorithm_presets.h"
#include "common/config/yaml.h"

namespace rollcall::explain {
namespace {

// Field -> value as YAML writes it; the fields of an algorithm are scalars.
std::map<std::string, std::string> CellsOf(const v1::AlgorithmSection& algorithm) {
  std::map<std::string, std::string> cells;
  for (const std::string& line :
       std::vector<std::string>(absl::StrSplit(config::FormatYaml(algorithm), '\n'))) {
    const std::pair<std::string, std::string> cell = absl::StrSplit(line, absl::MaxSplits(": ", 1));
    if (!cell.first.empty()) cells.insert(cell);
  }
  return cells;
}

}  // namespace

std::vector<Line> ChangedCells(const v1::AlgorithmSection& algorithm) {
  const std::string preset = config::PresetName(algorithm.preset());
  std::vector<std::string> sets = {absl::StrCat("algorithm.preset=", preset)};
  for (const config::PresetCell& cell : config::PresetCells(algorithm.preset())) {
    sets.push_back(
        absl::StrCat("algorithm.", std::string(cell.field), "=", std::string(cell.value)));
  }
  v1::RunConfig row;
  const std::vector<std::string_view> required = {"algorithm"};
  if (!config::LoadYaml("", sets, &row, {.required_in = required}).ok()) return {};
  const auto expected = CellsOf(row.algorithm());
  std::vector<Line> changes;
  for (const auto& [field, value] : CellsOf(algorithm)) {
    const auto found = expected.find(field);
    if (found != expected.end() && found->second == value) continue;
    changes.push_back({field, absl::StrCat(value, " (", preset, ": ",
                                           found == expected.end() ? "none" : found->second, ")")});
  }
  return changes;
}

}  // namespace rollcall::explain
