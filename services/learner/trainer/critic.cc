#include "services/learner/trainer/critic.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/checkpoint/parameters.h"
#include "common/model/attention_context.h"
#include "services/learner/algorithms/value_loss.h"
#include "services/learner/batching/mini_batch.h"
#include "services/learner/batching/packing.h"
#include "services/learner/trainer/lr_schedule.h"
#include "services/learner/trainer/saved_parameters.h"
#include "services/learner/trainer/written_number.h"

namespace rollcall::learner {
namespace {

at::Tensor OfTokens(const PackedBatch& packed, const Critic::Columns& columns,
                    const at::Device& device) {
  std::vector<float> tokens;
  for (const size_t sequence : packed.sequences) {
    tokens.insert(tokens.end(), columns[sequence].begin(), columns[sequence].end());
  }
  return at::tensor(tokens).to(device);
}

}  // namespace

absl::StatusOr<model::Decoder> CriticFromBody(const model::Decoder& body,
                                              const model::ModelConfig& config) {
  ROLLCALL_ASSIGN_OR_RETURN(model::Decoder critic,
                            model::Decoder::Create(config, body.dtype(), body.device()));
  const at::NoGradGuard no_grad;
  for (const auto& [name, parameter] : critic.parameters()) {
    if (name.rfind("score.", 0) == 0) continue;  // starts at 0
    const auto found = std::find_if(body.parameters().begin(), body.parameters().end(),
                                    [&](const auto& other) { return other.name == name; });
    if (found == body.parameters().end() || found->tensor.sizes() != parameter.sizes()) {
      return absl::InvalidArgumentError(
          absl::StrCat("critic: the language model has no ", name, " of that shape"));
    }
    parameter.copy_(found->tensor);
  }
  critic.InvalidatePacked();
  return critic;
}

Critic::Critic(model::Decoder decoder, const v1::CriticSection& options)
    : options_(options),
      decoder_(std::move(decoder)),
      optimizer_(decoder_.parameters(), options.optimizer()) {
  decoder_.SetRequiresGrad(true);
}

absl::StatusOr<at::Tensor> Critic::Forward(const PackedBatch& packed) {
  ROLLCALL_ASSIGN_OR_RETURN(model::PackedAttention attention,
                            model::PackedAttention::Create(packed.cu_seqlens));
  const at::Device device = decoder_.device();
  const at::Tensor hidden = decoder_.Forward(at::tensor(packed.token_ids).to(device),
                                             at::tensor(packed.positions).to(device), attention);
  return decoder_.Values(hidden.index_select(0, at::tensor(packed.rows).to(device)));
}

absl::StatusOr<Critic::Columns> Critic::Values(const TrainBatch& batch, size_t micro_batch_tokens) {
  const at::NoGradGuard no_grad;
  const std::vector<size_t> places = SplitIntoMiniBatches(batch, 1)[0];
  std::vector<size_t> lengths;
  for (const size_t place : places) lengths.push_back(batch.sequences[place].token_ids.size());
  Columns values(batch.sequences.size());
  for (std::vector<size_t>& micro_batch : PackByTokens(lengths, micro_batch_tokens)) {
    for (size_t& place : micro_batch) place = places[place];
    const PackedBatch packed = Pack(batch, micro_batch);
    ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor of_tokens, Forward(packed));
    const at::Tensor host = of_tokens.to(at::kCPU).contiguous();
    for (size_t i = 0; i < packed.sequence_of.size(); ++i) {
      values[packed.sequences[packed.sequence_of[i]]].push_back(host.const_data_ptr<float>()[i]);
    }
  }
  return values;
}

absl::Status Critic::Accumulate(const PackedBatch& packed, const Columns& old_values,
                                const Columns& returns, const std::vector<float>& weights) {
  const at::AutoGradMode grad_mode(true);
  const at::Device device = decoder_.device();
  ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor values, Forward(packed));
  const ValueLoss loss =
      ClippedValueLoss(values, OfTokens(packed, old_values, device),
                       OfTokens(packed, returns, device), WrittenNumber(options_.clip()));
  // ClippedValueLoss has its own 1 / 2 (PPO2's); the coefficient is that of the squared error.
  const at::Tensor weighted = loss.loss.mul(at::tensor(weights).to(device))
                                  .sum()
                                  .mul(2 * WrittenNumber(options_.coefficient()));
  weighted.backward();
  loss_ += weighted.item<double>();
  tokens_ += weights.size();
  clipped_ += static_cast<uint64_t>(loss.clipped.sum().item<int64_t>());
  return absl::OkStatus();
}

absl::StatusOr<ModelUpdate> Critic::Update(ProcessGroup& group, uint64_t step, uint64_t total) {
  lr_ = LearningRateAt(options_.optimizer(), step, total);
  ROLLCALL_ASSIGN_OR_RETURN(const ModelUpdate update,
                            UpdateModel(decoder_, optimizer_, group, std::exchange(loss_, 0), lr_,
                                        WrittenNumber(options_.optimizer().max_grad_norm())));
  ++updates_;
  losses_ += update.loss;
  if (update.taken) {
    ++taken_;
    grad_norms_ += update.grad_norm;
  }
  return update;
}

void Critic::ZeroGrad() {
  decoder_.ZeroGrad();
  loss_ = 0;
}

void Critic::Report(std::map<std::string, double>& metrics) {
  const auto mean = [](double sum, uint64_t count) {
    return count == 0 ? 0.0 : sum / static_cast<double>(count);
  };
  metrics["train/value_loss"] = mean(losses_, updates_);
  metrics["train/value_clip_fraction"] = mean(static_cast<double>(clipped_), tokens_);
  metrics["train/critic_grad_norm"] = mean(grad_norms_, taken_);
  metrics["train/critic_lr"] = lr_;
  metrics["train/critic_updates"] = static_cast<double>(taken_);
  losses_ = grad_norms_ = 0;
  updates_ = taken_ = tokens_ = clipped_ = 0;
}

absl::Status Critic::Save(const std::string& model_file, const std::string& optimizer_file) const {
  ROLLCALL_RETURN_IF_ERROR(checkpoint::SaveTensors(model_file, decoder_.parameters()));
  return checkpoint::SaveTensors(optimizer_file, optimizer_.State());
}

absl::Status Critic::Load(const std::string& model_file, const std::string& optimizer_file) {
  ROLLCALL_ASSIGN_OR_RETURN(const auto state, checkpoint::LoadTensors(optimizer_file));
  ROLLCALL_RETURN_IF_ERROR(Annotate(optimizer_.Check(state), optimizer_file));
  ROLLCALL_RETURN_IF_ERROR(LoadSavedParameters(model_file, decoder_.parameters()));
  optimizer_.Restore(state);
  decoder_.InvalidatePacked();
  decoder_.ZeroGrad();
  return absl::OkStatus();
}

}  // namespace rollcall::learner
