#include "services/generator/engine/decoder_runner.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/model/attention_context.h"
#include "common/model/parallel.h"
#include "common/model/scoring.h"
#include "common/tensor/bridge.h"
#include "common/tensor/compute_threads.h"
#include "common/tensor/torch_call.h"

namespace rollcall::generator {
namespace {

at::Tensor Int64Tensor(std::span<const uint32_t> values) {
  at::Tensor tensor = at::empty({static_cast<int64_t>(values.size())}, at::kLong);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<int64_t>());
  return tensor;
}

}  // namespace

DecoderRunner::DecoderRunner(model::Decoder decoder, model::KvCache cache, uint32_t threads)
    : decoder_(std::move(decoder)), cache_(std::move(cache)), threads_(threads) {}

void DecoderRunner::StartOnThisThread() {
  tensor::StartComputeThreads(threads_, tensor::ModelThread::kEngine);
}

absl::Status DecoderRunner::Forward(const StepPlan& plan, std::span<const uint32_t> token_ids) {
  return tensor::TorchCall([&]() -> absl::Status {
    const at::NoGradGuard no_grad;
    for (const BlockCopy& copy : plan.copies) cache_.CopyBlock(copy.from, copy.to);
    std::vector<model::PagedSequence> sequences(plan.chunks.size());
    for (size_t i = 0; i < plan.chunks.size(); ++i) {
      const StepChunk& chunk = plan.chunks[i];
      const std::span<const uint32_t> blocks = plan.blocks(chunk);
      sequences[i].block_table.assign(blocks.begin(), blocks.end());
      sequences[i].start = chunk.begin;
      sequences[i].count = chunk.count;
    }
    ROLLCALL_ASSIGN_OR_RETURN(model::PagedAttention attention,
                              model::PagedAttention::Create(&cache_, std::move(sequences)));
    hidden_ = decoder_.Forward(Int64Tensor(token_ids), attention.Positions(), attention);
    return absl::OkStatus();
  });
}

absl::StatusOr<std::span<const float>> DecoderRunner::Logits(std::span<const uint32_t> rows) {
  return tensor::TorchCall([&]() -> absl::StatusOr<std::span<const float>> {
    const at::NoGradGuard no_grad;
    const at::Tensor wanted = hidden_.index_select(0, Int64Tensor(rows).to(hidden_.device()));
    logits_ = at::Tensor();  // the decoder uses their memory again
    logits_ = decoder_.Logits(wanted).to(at::kCPU).contiguous();
    return std::span<const float>(logits_.const_data_ptr<float>(),
                                  static_cast<size_t>(logits_.numel()));
  });
}

float DecoderRunner::TokenLogProb(std::span<const float> logits, double temperature,
                                  uint32_t token) const {
  return model::TokenLogProb(logits.data(), static_cast<int64_t>(logits.size()), temperature,
                             token);
}

void DecoderRunner::Parallel(size_t count, size_t work, absl::FunctionRef<void(size_t)> task) {
  model::ParallelTasks(static_cast<int64_t>(count), /*scratch_floats=*/0,
                       static_cast<int64_t>(work),
                       [&](int64_t i, float*) { task(static_cast<size_t>(i)); });
}

absl::Status DecoderRunner::LoadWeights(const StagedWeights& weights) {
  if (!weights.adapter) {
    decoder_.RemoveAdapter();
  } else if (decoder_.lora() == nullptr || !decoder_.lora()->SameFunction(*weights.adapter)) {
    ROLLCALL_RETURN_IF_ERROR(
        tensor::TorchCall([&] { return decoder_.AddAdapter(*weights.adapter); }));
  }
  const auto& parameters = weights.adapter ? decoder_.adapter_parameters() : decoder_.parameters();
  if (weights.tensors.size() != parameters.size()) {
    return absl::InternalError(absl::StrCat("staged ", weights.tensors.size(), " tensors for ",
                                            parameters.size(), " parameters"));
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    const StagedWeights::Tensor& staged = weights.tensors[i];
    if (staged.entry.name != parameters[i].name) {
      return absl::InternalError(
          absl::StrCat("staged ", staged.entry.name, " for ", parameters[i].name));
    }
    ROLLCALL_RETURN_IF_ERROR(
        tensor::FillFromBytes(staged.entry.dtype, staged.bytes, parameters[i].tensor));
  }
  return absl::OkStatus();
}

uint32_t DecoderRunner::vocab_size() const {
  return static_cast<uint32_t>(decoder_.config().vocab_size);
}

}  // namespace rollcall::generator
