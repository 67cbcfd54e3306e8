#include "common/model/decoder.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/philox.h"
#include "common/base/status.h"
#include "common/model/aten_operators.h"
#include "common/model/kernel_calls.h"
#include "common/model/operators.h"

namespace rollcall::model {
namespace {

struct Layer {
  at::Tensor input_norm;
  Matrix q, k, v, o;
  at::Tensor post_attention_norm;
  Matrix gate, up, down;
};

// Cosines and sines of positions 0 .. rows-1 (kernels::RotateArgs). The angle is the float32
// product that the reference takes; cosine and sine are float64, rounded.
at::Tensor RopeTable(const std::vector<float>& frequencies, int64_t rows) {
  const auto half = static_cast<int64_t>(frequencies.size());
  at::Tensor table = at::empty({rows, 2 * half}, at::TensorOptions().dtype(at::kFloat));
  float* out = table.mutable_data_ptr<float>();
  for (int64_t position = 0; position < rows; ++position, out += 2 * half) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<float>(position) * frequencies[i];
      out[i] = static_cast<float>(std::cos(angle));
      out[half + i] = static_cast<float>(std::sin(angle));
    }
  }
  return table;
}

}  // namespace

struct Decoder::State {
  ModelConfig config;
  at::ScalarType dtype;
  at::Device device;
  Backend backend;

  std::vector<tensor::NamedTensor> parameters;
  at::Tensor embedding;
  std::vector<Layer> layers;
  at::Tensor final_norm;
  Matrix head;

  std::vector<float> frequencies;
  at::Tensor rope_table;  // grown on demand, on the model's device

  State(const ModelConfig& model_config, at::ScalarType compute_dtype,
        const at::Device& compute_device, Backend compute_backend)
      : config(model_config),
        dtype(compute_dtype),
        device(compute_device),
        backend(compute_backend),
        frequencies(RopeFrequencies(model_config)) {
    const int64_t hidden = config.hidden_size, inner = config.intermediate_size;
    const int64_t query = config.num_heads * config.head_dim;
    const int64_t key = config.num_kv_heads * config.head_dim;
    embedding = Add("model.embed_tokens.weight", {config.vocab_size, hidden});
    for (int64_t i = 0; i < config.num_layers; ++i) {
      const auto name = [i](const char* part) {
        return absl::StrCat("model.layers.", i, ".", part, ".weight");
      };
      const auto matrix = [&](const char* part, int64_t rows, int64_t columns) {
        return Matrix(Add(name(part), {rows, columns}));
      };
      Layer& layer = layers.emplace_back();
      layer.input_norm = Add(name("input_layernorm"), {hidden});
      layer.q = matrix("self_attn.q_proj", query, hidden);
      layer.k = matrix("self_attn.k_proj", key, hidden);
      layer.v = matrix("self_attn.v_proj", key, hidden);
      layer.o = matrix("self_attn.o_proj", hidden, query);
      layer.post_attention_norm = Add(name("post_attention_layernorm"), {hidden});
      layer.gate = matrix("mlp.gate_proj", inner, hidden);
      layer.up = matrix("mlp.up_proj", inner, hidden);
      layer.down = matrix("mlp.down_proj", hidden, inner);
    }
    final_norm = Add("model.norm.weight", {hidden});
    head = Matrix(config.tie_word_embeddings ? embedding
                                             : Add("lm_head.weight", {config.vocab_size, hidden}));
  }

  at::Tensor Add(std::string name, std::vector<int64_t> shape) {
    at::Tensor parameter = at::zeros(shape, at::TensorOptions().dtype(dtype).device(device));
    parameters.push_back({std::move(name), parameter});
    return parameter;
  }

  void GrowRopeTable(int64_t rows) {
    if (rope_table.defined() && rope_table.size(0) >= rows) return;
    int64_t grown = 256;
    while (grown < rows) grown *= 2;
    rope_table = RopeTable(frequencies, grown).to(device);
  }

  at::Tensor Attention(Layer& layer, int64_t index, const at::Tensor& x,
                       const at::Tensor& positions, AttentionContext& attention);
  at::Tensor Mlp(Layer& layer, const at::Tensor& x);
};

at::Tensor Decoder::State::Attention(Layer& layer, int64_t index, const at::Tensor& x,
                                     const at::Tensor& positions, AttentionContext& attention) {
  const int64_t tokens = x.size(0), heads = config.num_heads, kv_heads = config.num_kv_heads;
  const auto project = [&](Matrix& matrix, int64_t count) {
    return Linear(backend, x, matrix).view({tokens, count, config.head_dim});
  };
  const at::Tensor q = Rotate(backend, project(layer.q, heads), positions, rope_table);
  const at::Tensor k = Rotate(backend, project(layer.k, kv_heads), positions, rope_table);
  const AttentionLayer options{
      index, static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.head_dim))), backend};
  const at::Tensor mixed = attention.Attend(options, q, k, project(layer.v, kv_heads));
  return Linear(backend, mixed.reshape({tokens, heads * config.head_dim}), layer.o);
}

at::Tensor Decoder::State::Mlp(Layer& layer, const at::Tensor& x) {
  const at::Tensor gate = Linear(backend, x, layer.gate);
  return Linear(backend, SwiGlu(backend, gate, Linear(backend, x, layer.up)), layer.down);
}

absl::StatusOr<Decoder> Decoder::Create(const ModelConfig& config, at::ScalarType dtype,
                                        const at::Device& device) {
  return Create(config, dtype, device, device.is_cpu() ? Backend::kKernels : Backend::kAten);
}

absl::StatusOr<Decoder> Decoder::Create(const ModelConfig& config, at::ScalarType dtype,
                                        const at::Device& device, Backend backend) {
  ROLLCALL_RETURN_IF_ERROR(config.Validate());
  if (dtype != at::kFloat && dtype != at::kBFloat16) {
    return absl::InvalidArgumentError(
        absl::StrCat("dtype: expected float32 or bfloat16, got ", c10::toString(dtype)));
  }
  if (backend == Backend::kKernels && !device.is_cpu()) {
    return absl::InvalidArgumentError(
        absl::StrCat("device: the CPU kernels cannot run on ", device.str()));
  }
  return Decoder(std::make_unique<State>(config, dtype, device, backend));
}

Decoder::Decoder(std::unique_ptr<State> state) : state_(std::move(state)) {}
Decoder::~Decoder() = default;
Decoder::Decoder(Decoder&&) noexcept = default;
Decoder& Decoder::operator=(Decoder&&) noexcept = default;

const std::vector<tensor::NamedTensor>& Decoder::parameters() const { return state_->parameters; }

void Decoder::InitializeRandom(uint64_t seed) {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < state_->parameters.size(); ++i) {
    const auto& [name, parameter] = state_->parameters[i];
    if (parameter.dim() == 1) {
      parameter.fill_(1.0);
      continue;
    }
    double deviation = 1.0 / std::sqrt(static_cast<double>(parameter.size(1)));
    if (absl::StrContains(name, "o_proj") || absl::StrContains(name, "down_proj")) deviation /= 2;
    if (absl::StrContains(name, "embed_tokens") || absl::StrContains(name, "lm_head")) {
      deviation = 0.02;
    }
    at::Tensor values = at::empty(parameter.sizes(), at::TensorOptions().dtype(at::kFloat));
    float* out = values.mutable_data_ptr<float>();
    PhiloxStream random(seed, i);
    for (int64_t j = 0; j < values.numel(); ++j) {
      out[j] = static_cast<float>(deviation * random.Normal());
    }
    parameter.copy_(values);
  }
}

void Decoder::SetRequiresGrad(bool requires_grad) {
  InvalidatePacked();
  for (const auto& parameter : state_->parameters) {
    parameter.tensor.requires_grad_(requires_grad);
    if (requires_grad && state_->dtype != at::kFloat) parameter.tensor.set_grad_dtype(at::kFloat);
  }
}

void Decoder::ZeroGrad() {
  for (const auto& parameter : state_->parameters) parameter.tensor.mutable_grad() = at::Tensor();
}

void Decoder::InvalidatePacked() {
  for (Layer& layer : state_->layers) {
    for (Matrix* matrix :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      matrix->InvalidatePacked();
    }
  }
  state_->head.InvalidatePacked();
}

at::Tensor Decoder::Forward(const at::Tensor& token_ids, const at::Tensor& positions,
                            AttentionContext& attention) {
  State& s = *state_;
  TORCH_CHECK_VALUE(
      token_ids.dim() == 1 && token_ids.numel() > 0 && token_ids.scalar_type() == at::kLong,
      "token_ids: expected [tokens], int64, not empty");
  TORCH_CHECK_VALUE(positions.sizes() == token_ids.sizes() && positions.scalar_type() == at::kLong,
                    "positions: expected one int64 per token");
  TORCH_CHECK_VALUE(attention.num_tokens() == token_ids.size(0), "token_ids: expected ",
                    attention.num_tokens(), " tokens as in the attention context, got ",
                    token_ids.size(0));
  const at::Tensor ids = token_ids.to(s.device).contiguous();
  const at::Tensor places = positions.to(s.device).contiguous();
  TORCH_CHECK_INDEX(places.min().item<int64_t>() >= 0, "positions: expected none below 0");
  s.GrowRopeTable(places.max().item<int64_t>() + 1);

  const double epsilon = s.config.rms_norm_eps;
  at::Tensor x = Embed(s.backend, s.embedding, ids);
  for (size_t i = 0; i < s.layers.size(); ++i) {
    Layer& layer = s.layers[i];
    const at::Tensor normal = RmsNorm(s.backend, x, layer.input_norm, epsilon);
    x = at::add(x, s.Attention(layer, static_cast<int64_t>(i), normal, places, attention));
    x = at::add(x, s.Mlp(layer, RmsNorm(s.backend, x, layer.post_attention_norm, epsilon)));
  }
  return RmsNorm(s.backend, x, s.final_norm, epsilon);
}

at::Tensor Decoder::Logits(const at::Tensor& hidden) {
  const at::NoGradGuard no_grad;
  State& s = *state_;
  TORCH_CHECK_VALUE(hidden.dim() == 2 && hidden.size(1) == s.config.hidden_size,
                    "hidden: expected [n, ", s.config.hidden_size, "], got ", hidden.sizes());
  if (s.backend == Backend::kAten) {
    return aten::Linear(hidden.to(at::kFloat), s.head.weight().to(at::kFloat));
  }
  return LinearForward(hidden.contiguous(), s.head.Panels(), s.config.vocab_size, at::kFloat);
}

Matrix& Decoder::head() { return state_->head; }
const ModelConfig& Decoder::config() const { return state_->config; }
at::ScalarType Decoder::dtype() const { return state_->dtype; }
at::Device Decoder::device() const { return state_->device; }
Backend Decoder::backend() const { return state_->backend; }

std::string Decoder::Arithmetic() const {
  if (state_->backend == Backend::kKernels) return std::string(kernels::Arithmetic());
  return absl::StrCat(c10::DeviceTypeName(state_->device.type(), /*lower_case=*/true), "-aten");
}

uint32_t Decoder::KernelRevision() const {
  return state_->backend == Backend::kKernels ? kernels::kKernelRevision : 0;
}

}  // namespace rollcall::model
