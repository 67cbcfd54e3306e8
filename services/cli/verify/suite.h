#pragma once

#include <c10/core/Device.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/cli/verify/report.h"

namespace rollcall::verify {

struct SuiteInput {
  std::string root;                             // the golden folder
  c10::Device device = c10::Device(c10::kCPU);  // where models run
};

// One folder of golden numbers, compared with what this build computes. A further suite is one
// source file with a subclass and a line in AllSuites.
class Suite {
 public:
  virtual ~Suite() = default;

  // Its name and that of its folder under the root.
  virtual std::string_view name() const = 0;

  // Compares everything in root/name and reports each quantity. A status says that the folder
  // itself cannot be read; what is wrong with one case is a finding, and the others go on.
  virtual absl::Status Run(const SuiteInput& input, Report& report) const = 0;
};

std::unique_ptr<Suite> MakeModelsSuite();
std::unique_ptr<Suite> MakeGenerationSuite();
std::unique_ptr<Suite> MakeTextSuite();
std::unique_ptr<Suite> MakeObjectivesSuite();
std::unique_ptr<Suite> MakeStepsSuite();

// The cases of a suite's folder: names of its files that end in `suffix`, without it, sorted.
// NOT_FOUND where there is none.
absl::StatusOr<std::vector<std::string>> CaseNames(const std::string& folder,
                                                   std::string_view suffix = ".json");

// In the order they run.
std::vector<std::unique_ptr<Suite>> AllSuites();

}  // namespace rollcall::verify
