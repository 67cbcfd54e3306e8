// train_value_model SOURCE TARGET: takes the reward or value model of the folder SOURCE two AdamW
// steps towards values of 1 and writes the folder TARGET, with the learner's optimizer and writer.

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <iostream>
#include <string>
#include <vector>

#include "common/base/philox.h"
#include "common/base/status.h"
#include "common/checkpoint/hf_folder.h"
#include "common/checkpoint/hf_writer.h"
#include "common/checkpoint/parameters.h"
#include "common/model/attention_context.h"
#include "common/model/decoder.h"
#include "common/tensor/torch_call.h"
#include "services/learner/trainer/adamw.h"

namespace rollcall {
namespace {

constexpr int64_t kTokens = 60;
constexpr int kSteps = 2;
constexpr double kLearningRate = 1e-3;

absl::Status Step(model::Decoder& decoder, learner::AdamW& optimizer, const at::Tensor& tokens) {
  ROLLCALL_ASSIGN_OR_RETURN(auto attention,
                            model::PackedAttention::Create({0, kTokens / 3, kTokens}));
  decoder.ZeroGrad();
  const at::Tensor hidden = decoder.Forward(tokens, attention.Positions(), attention);
  const at::Tensor errors = decoder.Values(hidden) - 1.0;
  errors.mul(errors).mean().backward();
  std::vector<at::Tensor> gradients;
  for (const auto& parameter : decoder.parameters()) gradients.push_back(parameter.tensor.grad());
  optimizer.Update(gradients, kLearningRate);
  return absl::OkStatus();
}

absl::Status Train(const std::string& source, const std::string& target) {
  ROLLCALL_ASSIGN_OR_RETURN(const auto folder, checkpoint::HfFolder::Open(source));
  ROLLCALL_ASSIGN_OR_RETURN(const auto config, model::ModelConfig::FromJson(
                                                   folder.config_json(), source + "/config.json"));
  ROLLCALL_ASSIGN_OR_RETURN(model::Decoder decoder,
                            model::Decoder::Create(config, at::kFloat, at::Device(at::kCPU)));
  ROLLCALL_RETURN_IF_ERROR(checkpoint::LoadParameters(folder, decoder.parameters()));
  decoder.SetRequiresGrad(true);

  v1::OptimizerSection options;
  options.set_beta1(0.9f);
  options.set_beta2(0.95f);
  options.set_epsilon(1e-8f);
  learner::AdamW optimizer(decoder.parameters(), options);
  PhiloxStream random(1, 2);
  at::Tensor tokens = at::empty({kTokens}, at::TensorOptions().dtype(at::kLong));
  for (int64_t i = 0; i < kTokens; ++i) {
    tokens[i] = static_cast<int64_t>(random.Below(static_cast<uint64_t>(config.vocab_size)));
  }
  for (int step = 0; step < kSteps; ++step) {
    ROLLCALL_RETURN_IF_ERROR(Step(decoder, optimizer, tokens));
  }
  return checkpoint::WriteHfFolder(target, {.config_json = config.ToJson(),
                                            .tensors = decoder.parameters(),
                                            .dtype = std::nullopt,
                                            .source_folder = source});
}

}  // namespace
}  // namespace rollcall

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: train_value_model SOURCE TARGET\n";
    return 2;
  }
  const absl::Status status =
      rollcall::tensor::TorchCall([&] { return rollcall::Train(argv[1], argv[2]); });
  if (!status.ok()) std::cerr << status << "\n";
  return status.ok() ? 0 : 1;
}
