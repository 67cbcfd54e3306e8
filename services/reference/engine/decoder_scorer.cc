#include "services/reference/engine/decoder_scorer.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>

#include <utility>

#include "common/base/status.h"
#include "common/model/attention_context.h"
#include "common/model/decoder.h"
#include "common/model/scoring.h"
#include "common/tensor/bridge.h"
#include "common/tensor/torch_call.h"

namespace rollcall::reference {
namespace {

// A batch laid end to end, with the rows whose next token is to be scored.
struct PackedBatch {
  std::vector<int64_t> token_ids;
  std::vector<int64_t> cu_seqlens = {0};
  std::vector<int64_t> rows;     // of token_ids
  std::vector<int64_t> targets;  // one per row
};

PackedBatch Pack(const Batch& batch) {
  PackedBatch packed;
  for (const Batch::Item& item : batch.items) {
    const SequenceToScore& sequence = item.job->sequences[item.sequence];
    const auto begin = static_cast<int64_t>(packed.token_ids.size());
    packed.token_ids.insert(packed.token_ids.end(), sequence.token_ids.begin(),
                            sequence.token_ids.end());
    packed.cu_seqlens.push_back(static_cast<int64_t>(packed.token_ids.size()));
    for (size_t t = sequence.score_from; t < sequence.token_ids.size(); ++t) {
      packed.rows.push_back(begin + static_cast<int64_t>(t) - 1);
      packed.targets.push_back(sequence.token_ids[t]);
    }
  }
  return packed;
}

// The score columns, cut back into one part per sequence.
absl::StatusOr<std::vector<ScoredSequence>> Split(const Batch& batch,
                                                  const model::TokenScores& scores,
                                                  bool with_entropy) {
  ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor logprob, tensor::HostContiguous(scores.logprob));
  at::Tensor entropy;
  if (with_entropy) {
    ROLLCALL_ASSIGN_OR_RETURN(entropy, tensor::HostContiguous(scores.entropy));
  }
  std::vector<ScoredSequence> results;
  size_t row = 0;
  for (const Batch::Item& item : batch.items) {
    const SequenceToScore& sequence = item.job->sequences[item.sequence];
    const size_t count = sequence.token_ids.size() - sequence.score_from;
    ScoredSequence& result = results.emplace_back();
    const float* logprobs = logprob.const_data_ptr<float>() + row;
    result.logprobs.assign(logprobs, logprobs + count);
    if (with_entropy) {
      const float* entropies = entropy.const_data_ptr<float>() + row;
      result.entropies.assign(entropies, entropies + count);
    }
    row += count;
  }
  return results;
}

class DecoderScorer final : public Scorer {
 public:
  DecoderScorer(model::Decoder decoder, v1::ModelDescription description)
      : decoder_(std::move(decoder)), description_(std::move(description)) {}

  const v1::ModelDescription& description() const override { return description_; }

  absl::StatusOr<std::vector<ScoredSequence>> Score(const Batch& batch) override {
    return tensor::TorchCall([&] { return ScoreWithTorch(batch); });
  }

 private:
  absl::StatusOr<std::vector<ScoredSequence>> ScoreWithTorch(const Batch& batch) {
    const at::NoGradGuard no_grad;
    PackedBatch packed = Pack(batch);
    ROLLCALL_ASSIGN_OR_RETURN(model::PackedAttention attention,
                              model::PackedAttention::Create(std::move(packed.cu_seqlens)));
    const at::Tensor hidden =
        decoder_.Forward(at::tensor(packed.token_ids), attention.Positions(), attention);
    const at::Tensor rows = at::tensor(packed.rows).to(decoder_.device());
    const ScoreMode& mode = batch.items.front().job->mode;
    ROLLCALL_ASSIGN_OR_RETURN(const model::TokenScores scores,
                              model::ScoreTokens(decoder_, at::index_select(hidden, 0, rows),
                                                 at::tensor(packed.targets), mode.temperature,
                                                 mode.with_entropy ? model::EntropyMode::kDetached
                                                                   : model::EntropyMode::kNone));
    return Split(batch, scores, mode.with_entropy);
  }

  model::Decoder decoder_;
  const v1::ModelDescription description_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scorer>> LoadDecoderScorer(
    const model::FrozenModelOptions& options) {
  return tensor::TorchCall([&]() -> absl::StatusOr<std::unique_ptr<Scorer>> {
    ROLLCALL_ASSIGN_OR_RETURN(model::FrozenModel model, model::LoadFrozenModel(options));
    return std::make_unique<DecoderScorer>(std::move(model.decoder), std::move(model.description));
  });
}

}  // namespace rollcall::reference
