// Log-probs, entropy and supervised loss from logits, through the model's own head.
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/eye.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/model/decoder.h"
#include "common/model/scoring.h"
#include "services/cli/verify/objective_case.h"
#include "services/learner/algorithms/reward_model_loss.h"
#include "services/learner/algorithms/token_loss.h"

namespace rollcall::verify {
namespace {

using Json = nlohmann::json;

// A decoder whose head is the identity: its logits are its hidden rows.
model::Decoder IdentityHead(int64_t vocab) {
  model::ModelConfig config;
  config.vocab_size = vocab;
  config.hidden_size = vocab;
  config.intermediate_size = 8;
  config.num_layers = 1;
  config.num_heads = 1;
  config.num_kv_heads = 1;
  config.head_dim = 8;
  config.max_position_embeddings = 8;
  auto decoder = model::Decoder::Create(config, at::kFloat, at::Device(at::kCPU));
  TORCH_CHECK(decoder.ok(), decoder.status().ToString());
  const at::NoGradGuard no_grad;
  for (const auto& parameter : decoder->parameters()) {
    if (parameter.name == "lm_head.weight") parameter.tensor.copy_(at::eye(vocab));
  }
  return *std::move(decoder);
}

void ReplayScores(const ObjectiveCase& golden, CaseErrors& errors) {
  const Json hyper = golden.hyper();
  const PackedTokens tokens(golden, "response_mask");
  at::Tensor logits = golden.In("logits", at::kFloat).requires_grad_(true);
  const int64_t vocab = logits.size(2);
  model::Decoder decoder = IdentityHead(vocab);
  const auto scores = model::ScoreTokens(
      decoder, logits.reshape({-1, vocab}), golden.In("tokens", at::kLong).reshape({-1}),
      hyper.value("temperature", 1.0), model::EntropyMode::kDifferentiable);
  TORCH_CHECK(scores.ok(), scores.status().ToString());
  const at::Tensor logprobs = scores->logprob.reshape({tokens.rows, tokens.width});
  const at::Tensor entropy = scores->entropy.reshape({tokens.rows, tokens.width});
  at::Tensor loss;
  if (hyper.contains("token_level_loss")) {
    loss =
        Aggregate(learner::SupervisedLoss(tokens.Pack(logprobs)).total,
                  hyper["token_level_loss"].get<bool>() ? v1::LOSS_AGGREGATION_TOKEN_MEAN
                                                        : v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_MEAN,
                  tokens, tokens.denominators);
  } else if (hyper.contains("loss_agg_mode")) {
    const std::string mode = hyper["loss_agg_mode"];
    loss = Aggregate(tokens.Pack(entropy),
                     mode == "token-mean"            ? v1::LOSS_AGGREGATION_TOKEN_MEAN
                     : mode == "seq-mean-token-mean" ? v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_MEAN
                                                     : v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_SUM,
                     tokens, tokens.denominators);
    errors.Tensor(entropy, golden.Out("entropy", at::kFloat));
  } else {
    loss = tokens.Pack(logprobs).sum();
    errors.Tensor(logprobs, golden.Out("log_prob", at::kFloat));
  }
  loss.backward();
  errors.Number(loss.item<double>(), golden.Expected("loss", at::kFloat));
  errors.Tensor(logits.grad(), golden.Out("grad_logits", at::kFloat));
}

}  // namespace

CasePlan PlanEntropyLogprob(const ObjectiveCase& golden) {
  CasePlan plan;
  plan.options = "float32 only: models compute in it";
  plan.float32_only = true;
  plan.replay = [&golden](at::ScalarType, CaseErrors& errors) { ReplayScores(golden, errors); };
  return plan;
}

CasePlan PlanRewardModel(const ObjectiveCase& golden) {
  CasePlan plan;
  plan.options = "margin where the reference has one";
  plan.replay = [&golden](at::ScalarType dtype, CaseErrors& errors) {
    const Json hyper = golden.hyper();
    const at::Tensor chosen = golden.In("chosen", dtype).requires_grad_(true);
    const at::Tensor rejected = golden.In("rejected", dtype).requires_grad_(true);
    const at::Tensor margin =
        hyper.value("margin", false) ? golden.In("margin", dtype) : at::Tensor();
    const auto centering = hyper.find("center_rewards_coefficient");
    const double weight =
        centering == hyper.end() || centering->is_null() ? 0.0 : centering->get<double>();
    const at::Tensor loss = learner::RewardModelLoss(chosen, rejected, margin, weight).mean();
    loss.backward();
    errors.Number(loss.item<double>(), golden.Expected("loss", dtype));
    errors.Tensor(chosen.grad(), golden.Out("grad_chosen", dtype));
    errors.Tensor(rejected.grad(), golden.Out("grad_rejected", dtype));
  };
  return plan;
}

}  // namespace rollcall::verify
