#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
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
    std::vector<uint64_t> policy_steps;
    std::vector<bool> mixed_kv;
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

// Speaks to a generator, wherever it runs. Thread-safe once connected.
class GeneratorClient {
 public:
  GeneratorClient() = default;
  explicit GeneratorClient(const std::string& address) { Connect(address); }

  Outcome Generate(const v1::GenerateRequest& request);
  v1::ServerState State();
  // Waits until `reached` says yes to the state; false after kPatience.
  bool AwaitState(const std::function<bool(const v1::ServerState&)>& reached);
  bool Healthy();
  // Pushes weights, or with `adapter` an adapter, in chunks of `chunk_bytes`; the status of the first
  // call that fails.
  absl::Status PushWeights(const v1::PolicyVersion& version, const v1::WeightManifest& manifest,
                           const std::vector<std::string>& tensors, size_t chunk_bytes = 10000,
                           const std::optional<v1::AdapterContent>& adapter = std::nullopt);

  v1::Generator::Stub& generator() { return *generator_; }
  v1::Weights::Stub& weights() { return *weights_; }
  static void SetDeadline(grpc::ClientContext* context);

 protected:
  void Connect(const std::string& address);

 private:
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Generator::Stub> generator_;
  std::unique_ptr<v1::Weights::Stub> weights_;
};

}  // namespace rollcall::generator::testing
