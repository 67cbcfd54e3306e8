#include "common/model/test_models.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <cstring>

namespace rollcall::model::testing {

ModelConfig SmallConfig(int64_t num_heads, int64_t num_kv_heads, int64_t head_dim) {
  ModelConfig config;
  config.vocab_size = 77;
  config.hidden_size = 72;
  config.intermediate_size = 104;
  config.num_layers = 2;
  config.num_heads = num_heads;
  config.num_kv_heads = num_kv_heads;
  config.head_dim = head_dim;
  config.rms_norm_eps = 1e-5;
  config.eos_token_ids = {2};
  return config;
}

Decoder RandomDecoder(const ModelConfig& config, at::ScalarType dtype, uint64_t seed,
                      Backend backend) {
  Decoder decoder = *Decoder::Create(config, dtype, at::Device(at::kCPU), backend);
  decoder.InitializeRandom(seed);
  const at::NoGradGuard no_grad;
  PhiloxStream random(seed, 1000);
  for (const auto& [name, tensor] : decoder.parameters()) {
    if (tensor.dim() == 1) tensor.add_(RandomNormal(tensor.sizes(), random).mul_(0.2));
    if (name == "model.embed_tokens.weight" || name == "lm_head.weight") tensor.mul_(10.0);
  }
  return decoder;
}

at::Tensor RandomTokens(int64_t count, int64_t vocab, PhiloxStream& random) {
  at::Tensor tokens = at::empty({count}, at::TensorOptions().dtype(at::kLong));
  for (int64_t i = 0; i < count; ++i) {
    tokens.mutable_data_ptr<int64_t>()[i] = static_cast<int64_t>(random.Below(vocab));
  }
  return tokens;
}

at::Tensor RandomNormal(at::IntArrayRef shape, PhiloxStream& random) {
  at::Tensor values = at::empty(shape, at::TensorOptions().dtype(at::kFloat));
  for (int64_t i = 0; i < values.numel(); ++i) {
    values.mutable_data_ptr<float>()[i] = static_cast<float>(random.Normal());
  }
  return values;
}

double MaxDifference(const at::Tensor& a, const at::Tensor& b) {
  return (a.detach().to(at::kDouble) - b.detach().to(at::kDouble)).abs().max().item<double>();
}

double RelativeDifference(const at::Tensor& a, const at::Tensor& b) {
  return MaxDifference(a, b) / (b.detach().to(at::kDouble).abs().max().item<double>() + 1e-30);
}

::testing::AssertionResult SameBits(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) {
    return ::testing::AssertionFailure() << "different shape or dtype";
  }
  const at::Tensor x = a.detach().contiguous(), y = b.detach().contiguous();
  if (std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << (x != y).sum().item<int64_t>() << " of " << x.numel()
                                       << " elements differ, by up to " << MaxDifference(x, y);
}

ThreadCount::ThreadCount(int threads) : before_(at::get_num_threads()) {
  at::set_num_threads(threads);
}
ThreadCount::~ThreadCount() { at::set_num_threads(before_); }

}  // namespace rollcall::model::testing
