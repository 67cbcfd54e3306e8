#include "services/learner/trainer/critic.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/checkpoint/parameters.h"
#include "common/model/attention_context.h"
#include "services/learner/algorithms/value_loss.h"
#include "services/learner/batching/mini_batch.h"
#include "services/learner/batching/packing.h"
#include "services/learner/batching/rank_share.h"
#include "services/learner/trainer/lr_schedule.h"
#include "services/learner/trainer/rank_columns.h"
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

Critic::Critic(model::Decoder decoder, const v1::CriticSection& options, ProcessGroup* group)
    : options_(options),
      decoder_(std::move(decoder)),
      optimizer_(decoder_.parameters(), options.optimizer(), group) {
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
  ProcessGroup& group = optimizer_.group();
  const std::vector<size_t> places =
      OwnSequences(batch, SplitIntoMiniBatches(batch, 1)[0], group.rank(), group.size());
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
  ROLLCALL_RETURN_IF_ERROR(ShareColumns(group, values));
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
  own_tokens_ += weights.size();
  own_clipped_ += static_cast<uint64_t>(loss.clipped.sum().item<int64_t>());
  return absl::OkStatus();
}

absl::StatusOr<ModelUpdate> Critic::Update(uint64_t step, uint64_t total) {
  lr_ = LearningRateAt(options_.optimizer(), step, total);
  ROLLCALL_ASSIGN_OR_RETURN(const ModelUpdate update,
                            UpdateModel(decoder_, optimizer_, std::exchange(loss_, 0), lr_,
                                        WrittenNumber(options_.optimizer().max_grad_norm())));
  at::Tensor counts = at::tensor(
      std::vector<int64_t>{static_cast<int64_t>(own_tokens_), static_cast<int64_t>(own_clipped_)});
  ROLLCALL_RETURN_IF_ERROR(optimizer_.group().AllReduceSum(counts));
  own_tokens_ = own_clipped_ = 0;
  tokens_ += static_cast<uint64_t>(counts.const_data_ptr<int64_t>()[0]);
  clipped_ += static_cast<uint64_t>(counts.const_data_ptr<int64_t>()[1]);
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
  own_tokens_ = own_clipped_ = 0;
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
  ROLLCALL_ASSIGN_OR_RETURN(const auto state, optimizer_.GatherState());
  if (optimizer_.group().rank() != 0) return absl::OkStatus();
  ROLLCALL_RETURN_IF_ERROR(checkpoint::SaveTensors(model_file, decoder_.parameters()));
  return checkpoint::SaveTensors(optimizer_file, state);
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

absl::Status Critic::Share(bool with_optimizer, const std::string& optimizer_file) {
  ROLLCALL_RETURN_IF_ERROR(ShareParameters(optimizer_.group(), decoder_));
  if (!with_optimizer) return absl::OkStatus();
  std::map<std::string, at::Tensor> state;
  if (optimizer_.group().rank() == 0) {
    ROLLCALL_ASSIGN_OR_RETURN(state, checkpoint::LoadTensors(optimizer_file));
  }
  return optimizer_.Scatter(state);
}

}  // namespace rollcall::learner
