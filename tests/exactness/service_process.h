#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "rollcall/v1/logprob.grpc.pb.h"
#include "services/cli/process/child_process.h"
#include "services/generator/testing/generator_client.h"
#include "services/generator/testing/tiny_model.h"

namespace rollcall::exactness {

// A service of its own process. Killed when this is destroyed.
class ServiceProcess {
 public:
  // Runs rollcall-`name` on `model` with `sets` over the configuration's defaults; `folder` takes
  // its configuration, socket and log. Test failures where it does not come up.
  ServiceProcess(const std::string& name, const std::string& folder, const std::string& model,
                 const std::vector<std::string>& sets);

  const std::string& address() const { return address_; }
  // The value of a counter on its /metrics page; -1: there is none.
  double Counter(const std::string& name) const;

 private:
  const std::string address_, log_path_;
  std::unique_ptr<cli::ChildProcess> child_;
};

// A rollcall-generator, and a client of it.
class GeneratorProcess : public ServiceProcess, public generator::testing::GeneratorClient {
 public:
  GeneratorProcess(const std::string& folder, const std::string& model,
                   const std::vector<std::string>& sets)
      : ServiceProcess("generator", folder, model, sets), GeneratorClient(address()) {}
};

// A rollcall-reference, and a client of it.
class ReferenceProcess : public ServiceProcess {
 public:
  ReferenceProcess(const std::string& folder, const std::string& model,
                   const std::vector<std::string>& sets);

  // Log-probs of the tokens after each sequence's prompt.
  absl::StatusOr<std::vector<std::vector<float>>> Score(
      const std::vector<generator::testing::ScoredSequence>& sequences, double temperature);

 private:
  std::unique_ptr<v1::LogProb::Stub> stub_;
};

}  // namespace rollcall::exactness
