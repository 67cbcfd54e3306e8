#include "services/reward/model/decoder_scorer.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>

#include <utility>

#include "common/base/status.h"
#include "common/model/attention_context.h"
#include "common/model/reward_position.h"
#include "common/tensor/bridge.h"
#include "common/tensor/torch_call.h"

namespace rollcall::reward {
namespace {

class DecoderScorer final : public ModelScorer {
 public:
  explicit DecoderScorer(model::FrozenModel model) : model_(std::move(model)) {}

  const v1::ModelDescription& description() const override { return model_.description; }

  absl::StatusOr<std::vector<float>> Score(const ModelBatch& batch) override {
    return tensor::TorchCall([&] { return ScoreWithTorch(batch); });
  }

 private:
  absl::StatusOr<std::vector<float>> ScoreWithTorch(const ModelBatch& batch) {
    const at::NoGradGuard no_grad;
    model::Decoder& decoder = model_.decoder;
    std::vector<int64_t> token_ids;
    std::vector<int64_t> cu_seqlens = {0};
    std::vector<int64_t> rows;  // of token_ids, one per sequence
    for (const ModelBatch::Item& item : batch.items) {
      const std::vector<uint32_t>& ids = item.job->sequences[item.sequence].token_ids;
      rows.push_back(cu_seqlens.back() + static_cast<int64_t>(model::RewardPosition(
                                             ids, decoder.config().pad_token_id)));
      token_ids.insert(token_ids.end(), ids.begin(), ids.end());
      cu_seqlens.push_back(static_cast<int64_t>(token_ids.size()));
    }
    ROLLCALL_ASSIGN_OR_RETURN(model::PackedAttention attention,
                              model::PackedAttention::Create(std::move(cu_seqlens)));
    const at::Tensor hidden =
        decoder.Forward(at::tensor(token_ids), attention.Positions(), attention);
    const at::Tensor read = at::index_select(hidden, 0, at::tensor(rows).to(decoder.device()));
    ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor values,
                              tensor::HostContiguous(decoder.Values(read)));
    const float* begin = values.const_data_ptr<float>();
    return std::vector<float>(begin, begin + values.numel());
  }

  model::FrozenModel model_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ModelScorer>> LoadDecoderScorer(model::FrozenModelOptions options) {
  options.head = model::Head::kSequenceScore;
  return tensor::TorchCall([&]() -> absl::StatusOr<std::unique_ptr<ModelScorer>> {
    ROLLCALL_ASSIGN_OR_RETURN(model::FrozenModel model, model::LoadFrozenModel(options));
    return std::make_unique<DecoderScorer>(std::move(model));
  });
}

}  // namespace rollcall::reward
