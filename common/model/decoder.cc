#include "common/model/decoder.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/philox.h"
#include "common/base/status.h"
#include "common/model/activation_checkpoint.h"
#include "common/model/adapter.h"
#include "common/model/aten_operators.h"
#include "common/model/experts.h"
#include "common/model/kernel_calls.h"
#include "common/model/operators.h"
#include "common/model/parameter_list.h"

namespace rollcall::model {
namespace {

struct Layer {
  LayerOptions options;
  at::Tensor attention_norm, attention_output_norm, mlp_norm, mlp_output_norm;  // or undefined
  at::Tensor query_norm, key_norm;                                              // or undefined
  Matrix query, key, value;
  Matrix query_key_value;  // in place of those three
  Matrix output;
  Matrix gate, up;
  Matrix gate_up;  // in place of those two
  Matrix down;
  Matrix router;
  std::vector<Expert> experts;
};

// Cosines and sines of positions 0 .. rows-1 (kernels::RotateArgs), times `factor`. The angle is
// the float32 product that the reference takes; cosine and sine are float64, rounded.
at::Tensor RopeTable(const std::vector<float>& frequencies, int64_t rows, double factor) {
  const auto half = static_cast<int64_t>(frequencies.size());
  at::Tensor table = at::empty({rows, 2 * half}, at::TensorOptions().dtype(at::kFloat));
  float* out = table.mutable_data_ptr<float>();
  for (int64_t position = 0; position < rows; ++position, out += 2 * half) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<float>(position) * frequencies[i];
      out[i] = static_cast<float>(std::cos(angle) * factor);
      out[half + i] = static_cast<float>(std::sin(angle) * factor);
    }
  }
  return table;
}

// Columns [begin, begin + count) of x: [tokens, n], contiguous.
at::Tensor Columns(const at::Tensor& x, int64_t begin, int64_t count) {
  return x.narrow(1, begin, count).contiguous();
}

double RoundedTo(at::ScalarType dtype, double x) {
  return at::full({}, x, at::TensorOptions().dtype(dtype)).item<double>();
}

}  // namespace

struct Decoder::State {
  ModelConfig config;
  at::ScalarType dtype;
  at::Device device;
  Backend backend;

  std::vector<ParameterSpec> specs;
  std::vector<tensor::NamedTensor> parameters;  // one of each spec
  at::Tensor embedding;
  std::vector<Layer> layers;
  at::Tensor final_norm;
  Matrix head;   // of a language model
  Matrix score;  // of the others
  double embedding_scale;
  std::optional<AdapterSet> adapter;
  bool checkpoint_layers = false;
  at::Tensor logits;  // memory of the last call's, used again once the caller let go of it

  // Grown on demand, on the model's device; the second where sliding layers have their own rope.
  at::Tensor rope_table, sliding_rope_table;

  State(const ModelConfig& model_config, at::ScalarType compute_dtype,
        const at::Device& compute_device, Backend compute_backend)
      : config(model_config),
        dtype(compute_dtype),
        device(compute_device),
        backend(compute_backend),
        specs(ParametersOf(model_config)),
        layers(model_config.num_layers),
        // The reference keeps the factor in the compute dtype.
        embedding_scale(RoundedTo(compute_dtype, model_config.embedding_scale)) {
    for (int64_t i = 0; i < config.num_layers; ++i) {
      layers[i].options = config.Layer(i);
      if (layers[i].options.experts) layers[i].experts.resize(config.num_experts);
    }
    const auto options = at::TensorOptions().dtype(dtype).device(device);
    for (const ParameterSpec& spec : specs) {
      parameters.push_back({spec.name, at::zeros(spec.shape, options)});
      const at::Tensor& parameter = parameters.back().tensor;
      if (!IsMatrix(spec.part)) {
        VectorOf(spec) = parameter;
      } else if (spec.bias) {
        MatrixOf(spec).set_bias(parameter);
      } else {
        MatrixOf(spec) = Matrix(parameter);
      }
    }
    if (config.head == Head::kLanguageModel && !head.defined()) head = Matrix(embedding);
  }

  at::Tensor& VectorOf(const ParameterSpec& spec) {
    if (spec.part == Part::kEmbedding) return embedding;
    if (spec.part == Part::kFinalNorm) return final_norm;
    Layer& layer = layers[spec.layer];
    switch (spec.part) {
      case Part::kAttentionNorm:
        return layer.attention_norm;
      case Part::kAttentionOutputNorm:
        return layer.attention_output_norm;
      case Part::kMlpNorm:
        return layer.mlp_norm;
      case Part::kMlpOutputNorm:
        return layer.mlp_output_norm;
      case Part::kQueryNorm:
        return layer.query_norm;
      default:
        return layer.key_norm;
    }
  }

  Matrix& MatrixOf(const ParameterSpec& spec) {
    if (spec.part == Part::kHead) return head;
    if (spec.part == Part::kScore) return score;
    Layer& layer = layers[spec.layer];
    Expert* const expert = spec.expert < 0 ? nullptr : &layer.experts[spec.expert];
    switch (spec.part) {
      case Part::kQuery:
        return layer.query;
      case Part::kKey:
        return layer.key;
      case Part::kValue:
        return layer.value;
      case Part::kQueryKeyValue:
        return layer.query_key_value;
      case Part::kOutput:
        return layer.output;
      case Part::kRouter:
        return layer.router;
      case Part::kGate:
        return expert == nullptr ? layer.gate : expert->gate;
      case Part::kUp:
        return expert == nullptr ? layer.up : expert->up;
      case Part::kGateUp:
        return layer.gate_up;
      default:
        return expert == nullptr ? layer.down : expert->down;
    }
  }

  // Of every matrix, what the adapter has for it.
  void AttachAdapter() {
    for (size_t i = 0; i < specs.size(); ++i) {
      if (!IsMatrix(specs[i].part) || specs[i].bias) continue;
      MatrixOf(specs[i]).set_adapter(adapter ? adapter->Of(i) : nullptr);
    }
  }

  const std::vector<tensor::NamedTensor>& Trainable() const {
    return adapter ? adapter->parameters() : parameters;
  }

  void GrowTable(const Rope& rope, int64_t rows, at::Tensor& table) const {
    if (table.defined() && table.size(0) >= rows) return;
    int64_t grown = 256;
    while (grown < rows) grown *= 2;
    table = RopeTable(RopeFrequencies(rope, config.RotaryDim(), config.max_position_embeddings),
                      grown, rope.scaling.attention_factor)
                .to(device);
  }

  void GrowRopeTables(int64_t rows) {
    TORCH_CHECK_INDEX(!config.RopeDependsOnContext() || rows <= config.max_position_embeddings,
                      "positions: expected less than ", config.max_position_embeddings, ", got ",
                      rows - 1,
                      "; the model's rope changes with the length of the sequence beyond that");
    GrowTable(config.rope, rows, rope_table);
    if (config.sliding_rope) GrowTable(*config.sliding_rope, rows, sliding_rope_table);
  }

  // x: [rows, width].
  at::Tensor Norm(const at::Tensor& x, const at::Tensor& weight) const {
    return RmsNorm(backend, x, weight, config.rms_norm_eps, config.unit_offset_norm);
  }
  at::Tensor NormIfAny(const at::Tensor& x, const at::Tensor& weight) const {
    return weight.defined() ? Norm(x, weight) : x;
  }

  at::Tensor NormRotate(const Layer& layer, const at::Tensor& projected, int64_t heads,
                        const at::Tensor& norm, const at::Tensor& positions) const;
  at::Tensor Attention(Layer& layer, int64_t index, const at::Tensor& x,
                       const at::Tensor& positions, AttentionContext& attention);
  at::Tensor Mlp(Layer& layer, const at::Tensor& x, Wanted wanted);
  at::Tensor RunLayer(int64_t index, at::Tensor x, const at::Tensor& positions,
                      AttentionContext& attention, Wanted wanted = Wanted::kResult);
};

// Queries or keys [tokens, heads * head_dim] -> [tokens, heads, head_dim], normed and rotated as
// the layer wants it.
at::Tensor Decoder::State::NormRotate(const Layer& layer, const at::Tensor& projected,
                                      int64_t heads, const at::Tensor& norm,
                                      const at::Tensor& positions) const {
  const int64_t tokens = projected.size(0), dim = config.head_dim;
  at::Tensor x = projected;
  if (config.qk_norm == QkNorm::kPerHead) x = Norm(x.view({tokens * heads, dim}), norm);
  if (config.qk_norm == QkNorm::kWholeProjection) x = Norm(x, norm);
  x = x.view({tokens, heads, dim});
  if (!layer.options.rotates) return x;
  const bool own = layer.options.sliding && config.sliding_rope.has_value();
  return Rotate(backend, x, positions, own ? sliding_rope_table : rope_table);
}

at::Tensor Decoder::State::Attention(Layer& layer, int64_t index, const at::Tensor& x,
                                     const at::Tensor& positions, AttentionContext& attention) {
  const int64_t tokens = x.size(0), heads = config.num_heads, kv_heads = config.num_kv_heads;
  const int64_t dim = config.head_dim;
  at::Tensor q, k, v;
  if (layer.query_key_value.defined()) {
    const at::Tensor all = Linear(backend, x, layer.query_key_value);
    q = Columns(all, 0, heads * dim);
    k = Columns(all, heads * dim, kv_heads * dim);
    v = Columns(all, (heads + kv_heads) * dim, kv_heads * dim);
  } else {
    const std::vector<at::Tensor> all =
        Linears(backend, x, {&layer.query, &layer.key, &layer.value});
    q = all[0];
    k = all[1];
    v = all[2];
  }
  q = NormRotate(layer, q, heads, layer.query_norm, positions);
  k = NormRotate(layer, k, kv_heads, layer.key_norm, positions);
  AttentionLayer options{index, {}, backend};
  options.rule.scale = config.attention_scale > 0 ? config.attention_scale
                                                  : 1.0 / std::sqrt(static_cast<double>(dim));
  options.rule.softcap = config.attention_softcap;
  options.rule.window = layer.options.sliding ? config.sliding_window : 0;
  const at::Tensor mixed = attention.Attend(options, q, k, v.view({tokens, kv_heads, dim}));
  return Linear(backend, mixed.reshape({tokens, heads * dim}), layer.output);
}

at::Tensor Decoder::State::Mlp(Layer& layer, const at::Tensor& x, Wanted wanted) {
  if (layer.options.experts) {
    const MixtureOptions options{config.experts_per_token, config.normalize_expert_weights,
                                 config.activation};
    return MixtureOfExperts(backend, x, layer.router, layer.experts, options);
  }
  at::Tensor gate, up;
  if (layer.gate_up.defined()) {
    const at::Tensor both = Linear(backend, x, layer.gate_up);
    gate = Columns(both, 0, config.intermediate_size);
    up = Columns(both, config.intermediate_size, config.intermediate_size);
  } else {
    const std::vector<at::Tensor> both = Linears(backend, x, {&layer.gate, &layer.up});
    gate = both[0];
    up = both[1];
  }
  const at::Tensor product = Glu(backend, config.activation, gate, up);
  // A norm's gradient reads what it normed.
  return wanted == Wanted::kGraph && !layer.mlp_output_norm.defined()
             ? LinearForGradients(backend, product, layer.down)
             : Linear(backend, product, layer.down);
}

at::Tensor Decoder::State::RunLayer(int64_t index, at::Tensor x, const at::Tensor& positions,
                                    AttentionContext& attention, Wanted wanted) {
  Layer& layer = layers[index];
  const at::Tensor mixed =
      Attention(layer, index, NormIfAny(x, layer.attention_norm), positions, attention);
  x = at::add(x, NormIfAny(mixed, layer.attention_output_norm));
  const at::Tensor inner = Mlp(layer, NormIfAny(x, layer.mlp_norm), wanted);
  return at::add(x, NormIfAny(inner, layer.mlp_output_norm));
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
    const ParameterSpec& spec = state_->specs[i];
    const at::Tensor& parameter = state_->parameters[i].tensor;
    if (parameter.dim() == 1) {
      parameter.fill_(spec.bias || state_->config.unit_offset_norm ? 0.0 : 1.0);
      continue;
    }
    double deviation = 1.0 / std::sqrt(static_cast<double>(parameter.size(1)));
    if (spec.part == Part::kOutput || spec.part == Part::kDown) deviation /= 2;
    if (spec.part == Part::kEmbedding || spec.part == Part::kHead || spec.part == Part::kScore) {
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

absl::Status Decoder::AddAdapter(const LoraConfig& lora) {
  ROLLCALL_ASSIGN_OR_RETURN(const LoraConfig resolved, ResolveLora(lora, state_->config));
  state_->adapter.emplace(state_->config, resolved, state_->parameters);
  state_->AttachAdapter();
  return absl::OkStatus();
}

void Decoder::InitializeAdapter(uint64_t seed) { state_->adapter->InitializeRandom(seed); }

void Decoder::RemoveAdapter() {
  state_->adapter.reset();
  state_->AttachAdapter();
}

const LoraConfig* Decoder::lora() const {
  return state_->adapter ? &state_->adapter->lora() : nullptr;
}

const std::vector<tensor::NamedTensor>& Decoder::adapter_parameters() const {
  static const auto* const none = new std::vector<tensor::NamedTensor>();
  return state_->adapter ? state_->adapter->parameters() : *none;
}

std::vector<tensor::NamedTensor> Decoder::MergedParameters() const {
  return state_->adapter ? state_->adapter->Merged(state_->parameters) : state_->parameters;
}

const std::vector<tensor::NamedTensor>& Decoder::trainable_parameters() const {
  return state_->Trainable();
}

void Decoder::SetRequiresGrad(bool requires_grad) {
  InvalidatePacked();
  for (const auto& parameter : state_->parameters) parameter.tensor.requires_grad_(false);
  for (const auto& parameter : state_->Trainable()) {
    parameter.tensor.requires_grad_(requires_grad);
    if (requires_grad && parameter.tensor.scalar_type() != at::kFloat) {
      parameter.tensor.set_grad_dtype(at::kFloat);
    }
  }
  // In training even what is constant is in memory once.
  for (const ParameterSpec& spec : state_->specs) {
    if (IsMatrix(spec.part)) state_->MatrixOf(spec).set_packs(!requires_grad);
  }
  state_->head.set_packs(!requires_grad);
}

void Decoder::SetActivationCheckpointing(bool on) { state_->checkpoint_layers = on; }

void Decoder::ZeroGrad() {
  for (const auto& parameter : state_->Trainable()) parameter.tensor.mutable_grad() = at::Tensor();
}

void Decoder::InvalidatePacked() {
  for (const ParameterSpec& spec : state_->specs) {
    if (IsMatrix(spec.part)) state_->MatrixOf(spec).InvalidatePacked();
  }
  state_->head.InvalidatePacked();
  if (state_->adapter) state_->adapter->InvalidatePacked();
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
  s.GrowRopeTables(places.max().item<int64_t>() + 1);

  at::Tensor x = Embed(s.backend, s.embedding, ids);
  if (s.embedding_scale != 1.0) x = at::mul(x, s.embedding_scale);
  const bool graph = at::GradMode::is_enabled() && s.Trainable()[0].tensor.requires_grad();
  if (!s.checkpoint_layers || !graph) {
    for (int64_t i = 0; i < s.config.num_layers; ++i) x = s.RunLayer(i, x, places, attention);
    return s.Norm(x, s.final_norm);
  }
  const std::shared_ptr<AttentionContext> kept = attention.Copy();
  TORCH_CHECK(kept != nullptr, "attention: this context has no gradients");
  // Behind a constant embedding the first layer's input takes gradients for Checkpoint's sake.
  if (!x.requires_grad()) x = x.detach().requires_grad_(true);
  const int64_t last = s.config.num_layers - 1;
  for (int64_t i = 0; i < last; ++i) {
    const auto layer = [&s, i, places, kept](const at::Tensor& in, Wanted wanted) {
      return s.RunLayer(i, in, places, *kept, wanted);
    };
    x = Checkpoint(layer, x);
  }
  // The backward pass begins with the last layer, and needs what it keeps at once.
  x = s.RunLayer(last, x, places, attention);
  return s.Norm(x, s.final_norm);
}

at::Tensor Decoder::Logits(const at::Tensor& hidden) {
  const at::NoGradGuard no_grad;
  State& s = *state_;
  TORCH_CHECK_VALUE(s.head.defined(), "logits: ", s.config.RequireLanguageModel().message());
  TORCH_CHECK_VALUE(hidden.dim() == 2 && hidden.size(1) == s.config.hidden_size,
                    "hidden: expected [n, ", s.config.hidden_size, "], got ", hidden.sizes());
  const double softcap = s.config.final_softcap;
  if (s.backend == Backend::kAten) {
    const at::Tensor logits = aten::Linear(hidden, s.head.weight(), {}, at::kFloat);
    return softcap > 0 ? aten::SoftCap(logits, softcap) : logits;
  }
  // 39 MB for 64 rows of a vocabulary of 151,936: fresh pages cost a tenth of the product.
  const int64_t rows = hidden.size(0), elements = rows * s.config.vocab_size;
  if (!s.logits.defined() || s.logits.numel() < elements || s.logits.storage().use_count() > 1) {
    s.logits = at::empty({elements}, at::TensorOptions().dtype(at::kFloat));
  }
  at::Tensor logits = s.logits.narrow(0, 0, elements).view({rows, s.config.vocab_size});
  const at::Tensor x = hidden.contiguous();
  const Weights weights = s.head.ForProducts();
  const kernels::GemmArgs args = LinearArgs(x, weights, {}, logits);
  ParallelGemms({&args, 1});
  if (softcap > 0) SoftCapInPlace(logits, softcap, nullptr);
  return logits;
}

at::Tensor Decoder::Values(const at::Tensor& hidden) {
  State& s = *state_;
  TORCH_CHECK_VALUE(s.score.defined(), "values: the model is a language model");
  TORCH_CHECK_VALUE(hidden.dim() == 2 && hidden.size(1) == s.config.hidden_size,
                    "hidden: expected [n, ", s.config.hidden_size, "], got ", hidden.sizes());
  return LinearToFloat(s.backend, hidden.contiguous(), s.score).squeeze(1);
}

void Decoder::SetContext(int64_t tokens) {
  state_->config.SetContext(tokens);
  state_->rope_table = state_->sliding_rope_table = at::Tensor();
}

Matrix& Decoder::head() { return state_->head; }
const ModelConfig& Decoder::config() const { return state_->config; }
at::ScalarType Decoder::dtype() const { return state_->dtype; }
at::Device Decoder::device() const { return state_->device; }
Backend Decoder::backend() const { return state_->backend; }

std::string Decoder::Arithmetic() const {
  if (state_->backend == Backend::kKernels) return kernels::Kernels().arithmetic;
  return absl::StrCat(c10::DeviceTypeName(state_->device.type(), /*lower_case=*/true), "-aten");
}

uint32_t Decoder::KernelRevision() const {
  return state_->backend == Backend::kKernels ? kernels::kKernelRevision : 0;
}

}  // namespace rollcall::model
