#pragma once

#include <memory>
#include <string>
#include <vector>

#include "services/cli/process/child_process.h"
#include "services/generator/testing/generator_client.h"

namespace rollcall::exactness {

// A rollcall-generator of its own process, and a client of it. Killed when this is destroyed.
class GeneratorProcess : public generator::testing::GeneratorClient {
 public:
  // Serves `model` with `sets` over the configuration's defaults; `folder` takes its configuration,
  // socket and log. Test failures where it does not come up.
  GeneratorProcess(const std::string& folder, const std::string& model,
                   const std::vector<std::string>& sets);

  // The value of a counter on its /metrics page; -1: there is none.
  double Counter(const std::string& name) const;

 private:
  std::string log_path_;
  std::unique_ptr<cli::ChildProcess> child_;
};

}  // namespace rollcall::exactness
