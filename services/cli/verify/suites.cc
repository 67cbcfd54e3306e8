#include <algorithm>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/cli/verify/suite.h"

namespace rollcall::verify {

absl::StatusOr<std::vector<std::string>> CaseNames(const std::string& folder,
                                                   std::string_view suffix) {
  const std::string ending(suffix);
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string file = entry.path().filename().string();
    if (absl::EndsWith(file, ending)) names.push_back(file.substr(0, file.size() - ending.size()));
  }
  if (names.empty()) return absl::NotFoundError(absl::StrCat(folder, ": no ", ending, " in it"));
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::unique_ptr<Suite>> AllSuites() {
  std::vector<std::unique_ptr<Suite>> suites;
  suites.push_back(MakeModelsSuite());
  suites.push_back(MakeGenerationSuite());
  suites.push_back(MakeTextSuite());
  suites.push_back(MakeObjectivesSuite());
  suites.push_back(MakeStepsSuite());
  return suites;
}

}  // namespace rollcall::verify
