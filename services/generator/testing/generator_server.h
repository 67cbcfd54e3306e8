#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/shutdown.h"
#include "common/metrics/registry.h"
#include "common/rpc/server.h"
#include "common/rpc/service_main.h"
#include "rollcall/v1/generator.grpc.pb.h"
#include "rollcall/v1/weights.grpc.pb.h"

namespace rollcall::generator::testing {

inline constexpr absl::Duration kPatience = absl::Seconds(60);

// What came of one Generate call.
struct Outcome {
  struct Sample {
    std::vector<uint32_t> tokens;
    std::vector<float> logprobs;
    std::vector<float> sampling_logprobs;
    std::vector<float> kept_log_mass;
    std::vector<v1::TokenAlternatives> alternatives;
    std::string text;
    std::vector<v1::SampleEnd> ends;
  };
  absl::Status status;
  v1::GenerateHeader header;
  std::vector<float> prompt_logprobs;
  std::map<uint32_t, Sample> samples;
  int messages = 0;
  std::string retry_after_ms;  // trailer; empty: none
};

// Adds a message to an outcome, and checks the order that the contract promises.
void Collect(const v1::GenerateResponse& message, Outcome* outcome);

// A generator in this process, as its binary makes it, behind a real server on a Unix socket, and a
// client of it.
class GeneratorServer {
 public:
  // Serves `model_path`; `sets` override the configuration, "generator.threads=1" each. Test
  // failures where it cannot.
  GeneratorServer(const std::string& model_path, std::vector<std::string> sets);
  ~GeneratorServer();

  Outcome Generate(const v1::GenerateRequest& request);
  v1::ServerState State();
  // Waits until `reached` says yes to the state; false after kPatience.
  bool AwaitState(const std::function<bool(const v1::ServerState&)>& reached);
  bool Healthy();
  // Pushes weights in chunks of `chunk_bytes`; the status of the first call that fails.
  absl::Status PushWeights(const v1::PolicyVersion& version, const v1::WeightManifest& manifest,
                           const std::vector<std::string>& tensors, size_t chunk_bytes = 10000);

  v1::Generator::Stub& generator() { return *generator_; }
  v1::Weights::Stub& weights() { return *weights_; }
  rpc::HostedService& service() { return *service_; }
  const std::string& address() const { return server_->bound_address(); }
  std::string metrics_text() const { return metrics_.Text(); }
  static void SetDeadline(grpc::ClientContext* context);

 private:
  std::string folder_;
  v1::RunConfig config_;
  metrics::Registry metrics_;
  Shutdown shutdown_;
  bool serving_ = true;
  std::unique_ptr<rpc::HostedService> service_;
  std::unique_ptr<rpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Generator::Stub> generator_;
  std::unique_ptr<v1::Weights::Stub> weights_;
};

}  // namespace rollcall::generator::testing
