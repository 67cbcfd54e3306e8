#include "services/cli/verify/suite.h"

namespace rollcall::verify {

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
