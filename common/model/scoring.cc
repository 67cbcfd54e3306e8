#include "common/model/scoring.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/model/aten_operators.h"
#include "common/model/kernel_calls.h"
#include "common/model/operators.h"
#include "common/model/parallel.h"

namespace rollcall::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Logits held at once: 16 MiB, and at least one row block of the product.
constexpr int64_t kChunkLogits = int64_t{1} << 22;

// What is between the head's product and the log-softmax.
struct LogitSettings {
  double temperature;
  double softcap;  // 0: none
};

// hidden w^T into `logits`: [rows, vocab], float32.
void LogitsInto(const at::Tensor& hidden, const Weights& weights, at::Tensor& logits) {
  const kernels::GemmArgs args = LinearArgs(hidden, weights, {}, logits);
  ParallelGemms({&args, 1});
}

int64_t ChunkRows(int64_t rows, int64_t vocab) {
  return std::min(rows, std::max(kernels::kRowBlock, kChunkLogits / vocab));
}

// An exponential and two sums cost about 16 multiply-adds an element.
void ScoreRows(const kernels::ScoreArgs& args, int64_t rows) {
  ParallelRanges(rows, 1, 16 * rows * args.vocab,
                 [&](int64_t begin, int64_t end) { kernels::Kernels().score(args, begin, end); });
}

TokenScores ScoreForward(const at::Tensor& hidden, const Weights& weights,
                         const at::Tensor& targets, int64_t vocab, const LogitSettings& settings,
                         bool with_entropy) {
  const int64_t rows = hidden.size(0), chunk = ChunkRows(rows, vocab);
  const auto options = at::TensorOptions().dtype(at::kFloat);
  TokenScores scores{at::empty({rows}, options), {}};
  if (with_entropy) scores.entropy = at::empty({rows}, options);
  // One buffer for all chunks: fresh pages would cost a tenth of the product.
  const at::Tensor buffer = at::empty({chunk, vocab}, options);
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t count = std::min(chunk, rows - begin);
    at::Tensor logits = buffer.narrow(0, 0, count);
    LogitsInto(hidden.narrow(0, begin, count), weights, logits);
    if (settings.softcap > 0) SoftCapInPlace(logits, settings.softcap, nullptr);
    kernels::ScoreArgs args{};
    args.vocab = vocab;
    args.inverse_temperature = static_cast<float>(1.0 / settings.temperature);
    args.logits = logits.mutable_data_ptr<float>();
    args.targets = targets.const_data_ptr<int64_t>() + begin;
    args.logprob = scores.logprob.mutable_data_ptr<float>() + begin;
    if (with_entropy) args.entropy = scores.entropy.mutable_data_ptr<float>() + begin;
    ScoreRows(args, count);
  }
  return scores;
}

struct ScoreGradients {
  at::Tensor dhidden, dhead;
};

// dlogprob, dentropy: [n], float32 or undefined.
ScoreGradients ScoreBackward(const at::Tensor& hidden, const at::Tensor& head,
                             const Weights& weights, const at::Tensor& targets,
                             const at::Tensor& dlogprob, const at::Tensor& dentropy,
                             const LogitSettings& settings, bool need_head) {
  const int64_t rows = hidden.size(0), vocab = head.size(0), chunk = ChunkRows(rows, vocab);
  ScoreGradients gradients{at::empty(hidden.sizes(), hidden.options()), {}};
  if (need_head) gradients.dhead = at::empty(head.sizes(), head.options().dtype(at::kFloat));
  const auto rows_from = [](const at::Tensor& x, int64_t begin) {
    return x.defined() ? x.const_data_ptr<float>() + begin : nullptr;
  };
  const at::Tensor buffer = at::empty({chunk, vocab}, head.options().dtype(at::kFloat));
  const bool rounds = head.scalar_type() != at::kFloat;
  const at::Tensor rounded = rounds ? at::empty({chunk, vocab}, head.options()) : at::Tensor();
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t count = std::min(chunk, rows - begin);
    const at::Tensor part = hidden.narrow(0, begin, count);
    at::Tensor logits = buffer.narrow(0, 0, count), slope;
    LogitsInto(part, weights, logits);
    if (settings.softcap > 0) SoftCapInPlace(logits, settings.softcap, &slope);
    kernels::ScoreArgs args{};
    args.vocab = vocab;
    args.inverse_temperature = static_cast<float>(1.0 / settings.temperature);
    args.logits = logits.mutable_data_ptr<float>();
    args.targets = targets.const_data_ptr<int64_t>() + begin;
    args.dlogprob = rows_from(dlogprob, begin);
    args.dentropy = rows_from(dentropy, begin);
    ParallelRanges(count, 1, 32 * count * vocab, [&](int64_t from, int64_t to) {
      kernels::Kernels().score_backward(args, from, to);
    });
    if (slope.defined()) logits.mul_(slope);
    // Rounded to the compute dtype, as every other gradient of an activation is.
    const at::Tensor dlogits = rounds ? rounded.narrow(0, 0, count).copy_(logits) : logits;
    gradients.dhidden.narrow(0, begin, count).copy_(LinearDx(dlogits, head, head.scalar_type()));
    if (need_head) LinearDw(dlogits, part, gradients.dhead, /*accumulate=*/begin > 0);
  }
  return gradients;
}

struct ScoreFunction : torch::autograd::Function<ScoreFunction> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& hidden,
                               const at::Tensor& head, const Weights& weights,
                               const at::Tensor& targets, const LogitSettings& settings,
                               EntropyMode entropy) {
    ctx->save_for_backward({hidden, head, targets});
    ctx->saved_data["temperature"] = settings.temperature;
    ctx->saved_data["softcap"] = settings.softcap;
    ctx->saved_data["packed"] = weights.packed;
    if (weights.packed) ctx->saved_data["panels"] = weights.tensor;
    ctx->set_materialize_grads(false);
    TokenScores scores = ScoreForward(hidden, weights, targets, head.size(0), settings,
                                      entropy != EntropyMode::kNone);
    if (entropy == EntropyMode::kNone) return {scores.logprob};
    if (entropy == EntropyMode::kDetached) ctx->mark_non_differentiable({scores.entropy});
    return {scores.logprob, scores.entropy};
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const variable_list saved = ctx->get_saved_variables();
    const auto dense = [&](size_t i) {
      return i < gradients.size() && gradients[i].defined() ? gradients[i].contiguous()
                                                            : at::Tensor();
    };
    const LogitSettings settings{ctx->saved_data["temperature"].toDouble(),
                                 ctx->saved_data["softcap"].toDouble()};
    const bool packed = ctx->saved_data["packed"].toBool();
    const Weights weights{packed ? ctx->saved_data["panels"].toTensor() : saved[1], packed};
    ScoreGradients result = ScoreBackward(saved[0], saved[1], weights, saved[2], dense(0), dense(1),
                                          settings, ctx->needs_input_grad(1));
    return {result.dhidden, result.dhead, {}, {}, {}, {}};
  }
};

TokenScores ScoreWithAten(const at::Tensor& hidden, const at::Tensor& head,
                          const at::Tensor& targets, const LogitSettings& settings,
                          EntropyMode entropy) {
  at::Tensor logits = aten::Linear(hidden, head, {}, at::kFloat);
  if (settings.softcap > 0) logits = aten::SoftCap(logits, settings.softcap);
  const at::Tensor logprobs = at::log_softmax(logits / settings.temperature, -1);
  TokenScores scores{logprobs.gather(1, targets.unsqueeze(1)).squeeze(1), {}};
  if (entropy != EntropyMode::kNone) scores.entropy = -(logprobs.exp() * logprobs).sum(-1);
  if (entropy == EntropyMode::kDetached) scores.entropy = scores.entropy.detach();
  return scores;
}

}  // namespace

absl::StatusOr<TokenScores> ScoreTokens(Decoder& decoder, const at::Tensor& hidden,
                                        const at::Tensor& targets, double temperature,
                                        EntropyMode entropy) {
  ROLLCALL_RETURN_IF_ERROR(decoder.config().RequireLanguageModel());
  const int64_t vocab = decoder.config().vocab_size;
  if (!std::isfinite(temperature) || temperature <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("temperature: expected a number above 0, got ", temperature));
  }
  if (hidden.dim() != 2 || hidden.size(1) != decoder.config().hidden_size || targets.dim() != 1 ||
      targets.size(0) != hidden.size(0) || targets.scalar_type() != at::kLong) {
    return absl::InvalidArgumentError("targets: expected one int64 per row of hidden");
  }
  if (targets.numel() > 0 &&
      (targets.min().item<int64_t>() < 0 || targets.max().item<int64_t>() >= vocab)) {
    return absl::InvalidArgumentError(
        absl::StrCat("targets: expected token ids from 0 to ", vocab - 1));
  }
  const at::Tensor ids = targets.to(hidden.device()).contiguous();
  const at::Tensor& head = decoder.head().weight();
  const LogitSettings settings{temperature, decoder.config().final_softcap};
  if (decoder.backend() == Backend::kAten) {
    return ScoreWithAten(hidden, head, ids, settings, entropy);
  }
  const at::Tensor rows = hidden.contiguous();
  const Weights weights = decoder.head().ForProducts();
  if (!at::GradMode::is_enabled() || !(rows.requires_grad() || head.requires_grad())) {
    return ScoreForward(rows, weights, ids, vocab, settings, entropy != EntropyMode::kNone);
  }
  const variable_list scores = ScoreFunction::apply(rows, head, weights, ids, settings, entropy);
  return TokenScores{scores[0], scores.size() > 1 ? scores[1] : at::Tensor()};
}

float TokenLogProb(const float* logits, int64_t vocab, double temperature, int64_t token) {
  float logprob = 0.0f;
  kernels::ScoreArgs args{};
  args.vocab = vocab;
  args.inverse_temperature = static_cast<float>(1.0 / temperature);
  args.logits = const_cast<float*>(logits);  // only read by the forward
  args.targets = &token;
  args.logprob = &logprob;
  kernels::Kernels().score(args, 0, 1);
  return logprob;
}

}  // namespace rollcall::model
