#include "services/cli/verify/verify.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/shutdown.h"
#include "common/base/status.h"
#include "common/tensor/device.h"
#include "common/tensor/torch_call.h"
#include "services/cli/verify/report.h"
#include "services/cli/verify/suite.h"

namespace rollcall::verify {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string root;
  std::vector<std::string> suites;  // empty: all that the folder has
  std::string device = "cpu";
  bool json = false;
};

void RunSuite(const Suite& suite, const SuiteInput& input, Report& report) {
  const absl::Status status = tensor::TorchCall([&] { return suite.Run(input, report); });
  if (status.ok()) return;
  report.Begin(suite.name(), "-");
  report.Fail("folder", status.ToString());
}

// Folders of numbers that no suite of this build reads.
void ReportOtherFolders(const std::string& root, const std::vector<std::unique_ptr<Suite>>& suites,
                        Report& report) {
  std::set<std::string> others;
  for (const auto& entry : fs::directory_iterator(root)) {
    if (entry.is_directory()) others.insert(entry.path().filename().string());
  }
  for (const auto& suite : suites) others.erase(std::string(suite->name()));
  for (const std::string& folder : others) {
    report.Begin(folder, "-");
    report.NotSupported("all", "this build has no suite of that name");
  }
}

absl::Status RunSuites(const Options& options, Report& report) {
  SuiteInput input{.root = options.root};
  ROLLCALL_ASSIGN_OR_RETURN(input.device, tensor::OpenDevice(options.device));
  const std::vector<std::unique_ptr<Suite>> suites = AllSuites();
  std::set<std::string> wanted(options.suites.begin(), options.suites.end());
  for (const auto& suite : suites) {
    const std::string name(suite->name());
    const bool there = fs::is_directory(fs::path(options.root) / name);
    if (!options.suites.empty() && wanted.erase(name) == 0) continue;
    if (!there && !options.suites.empty()) {
      return absl::NotFoundError(absl::StrCat(options.root, "/", name, ": no such folder"));
    }
    if (there) RunSuite(*suite, input, report);
  }
  if (!wanted.empty())
    return absl::InvalidArgumentError(absl::StrCat("--suite ", *wanted.begin(), ": no such suite"));
  if (options.suites.empty()) ReportOtherFolders(options.root, suites, report);
  if (report.findings().empty()) {
    return absl::NotFoundError(absl::StrCat(options.root, ": holds no folder of golden numbers"));
  }
  return absl::OkStatus();
}

std::string SuiteNames() {
  std::string names;
  for (const auto& suite : AllSuites()) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", std::string(suite->name()));
  }
  return names;
}

}  // namespace

int RunVerify(std::span<const std::string> arguments, std::ostream& out, std::ostream& errors) {
  Options options;
  CLI::App app("Compare this build with golden numbers of reference implementations",
               "rollcall verify");
  app.add_option("DIR", options.root, "Folder of golden numbers, one folder a suite")
      ->required()
      ->check(CLI::ExistingDirectory);
  app.add_option("--suite", options.suites,
                 absl::StrCat("Run only this one of ", SuiteNames(), "; repeatable"));
  app.add_option("--device", options.device, "Where models run: cpu, cuda, cuda:N")
      ->capture_default_str();
  app.add_flag("--json", options.json, "One JSON object instead of the table");
  try {
    // CLI11 takes the arguments from the back.
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ParseError& error) {
    return app.exit(error, out, errors) == 0 ? kExitClean : kExitUsage;
  }
  Report report;
  // The file system, too, speaks in exceptions.
  const absl::Status status = tensor::TorchCall([&] { return RunSuites(options, report); });
  if (!status.ok()) {
    errors << "rollcall verify: " << status.message() << "\n";
    return kExitUsage;
  }
  out << (options.json ? FormatJson(report) : FormatTable(report));
  return report.Count(Outcome::kFail) == 0 ? kExitClean : kExitFailure;
}

}  // namespace rollcall::verify
