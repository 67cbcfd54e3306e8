#include "common/model/test_runs.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "common/model/scoring.h"
#include "common/model/test_models.h"

namespace rollcall::model::testing {

Batch::Batch(const std::vector<int64_t>& lengths, int64_t vocab, uint64_t seed) {
  PhiloxStream random(seed, 7);
  for (int64_t length : lengths) {
    sequences.push_back(RandomTokens(length, vocab, random));
    cu_seqlens.push_back(cu_seqlens.back() + length);
  }
}

at::Tensor Batch::Tokens() const { return at::cat(sequences); }

at::Tensor OutputsOf(Decoder& decoder, const at::Tensor& hidden) {
  if (decoder.config().head == Head::kLanguageModel) return decoder.Logits(hidden);
  return decoder.Values(hidden).unsqueeze(1);
}

PackedResult RunPacked(Decoder& decoder, const Batch& batch) {
  decoder.SetRequiresGrad(true);
  PackedAttention attention = *PackedAttention::Create(batch.cu_seqlens);
  const at::Tensor tokens = batch.Tokens();
  PackedResult result;
  const at::Tensor hidden = decoder.Forward(tokens, attention.Positions(), attention);
  if (decoder.config().head == Head::kLanguageModel) {
    const TokenScores scores =
        *ScoreTokens(decoder, hidden, tokens.roll(-1), 0.7, EntropyMode::kDetached);
    scores.logprob.sum().backward();
    result.logprob = scores.logprob.detach();
    result.outputs = decoder.Logits(hidden);
  } else {
    const at::Tensor values = decoder.Values(hidden);
    values.sum().backward();
    result.outputs = values.detach().unsqueeze(1);
  }
  decoder.ZeroGrad();
  decoder.SetRequiresGrad(false);
  result.hidden = hidden.detach();
  return result;
}

namespace {

constexpr int64_t kBlocks = 64;

template <typename T>
void Shuffle(std::vector<T>& values, PhiloxStream& random) {
  for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[random.Below(i)]);
}

class PagedRun {
 public:
  PagedRun(Decoder& decoder, const Batch& batch, int64_t block_size, PhiloxStream& random)
      : decoder_(decoder),
        batch_(batch),
        random_(random),
        cache_(*KvCache::Create(decoder.config(), {kBlocks, block_size}, decoder.dtype(),
                                decoder.device())),
        free_blocks_(kBlocks),
        states_(batch.sequences.size()),
        rows_(batch.sequences.size()) {
    for (int64_t layer = 0; layer < cache_.num_layers(); ++layer) {
      // What a freed block may hold must not matter.
      cache_.keys(layer).fill_(std::numeric_limits<double>::quiet_NaN());
      cache_.values(layer).fill_(std::numeric_limits<double>::infinity());
    }
    std::iota(free_blocks_.begin(), free_blocks_.end(), 0);
    Shuffle(free_blocks_, random_);
  }

  at::Tensor Run(const std::function<int64_t(int64_t remaining)>& next_chunk) {
    while (Plan(next_chunk)) {
      if (!step_.empty()) Step();
    }
    std::vector<at::Tensor> all;
    for (auto& parts : rows_) all.insert(all.end(), parts.begin(), parts.end());
    return at::cat(all);
  }

 private:
  // Chooses the next step's chunks; false once every sequence is through.
  bool Plan(const std::function<int64_t(int64_t remaining)>& next_chunk) {
    std::vector<size_t> order(states_.size());
    std::iota(order.begin(), order.end(), 0);
    Shuffle(order, random_);
    step_.clear();
    chosen_.clear();
    bool more = false;
    for (size_t i : order) {
      PagedSequence& state = states_[i];
      state.start += state.count;
      state.count = 0;
      const int64_t remaining = batch_.sequences[i].size(0) - state.start;
      if (remaining == 0) continue;
      more = true;
      state.count = std::min<int64_t>(remaining, next_chunk(remaining));
      if (state.count == 0) continue;
      while (static_cast<int64_t>(state.block_table.size()) * cache_.block_size() <
             state.start + state.count) {
        state.block_table.push_back(free_blocks_.back());
        free_blocks_.pop_back();
      }
      step_.push_back(state);
      chosen_.push_back(i);
    }
    return more;
  }

  void Step() {
    std::vector<at::Tensor> tokens;
    for (size_t j = 0; j < step_.size(); ++j) {
      tokens.push_back(batch_.sequences[chosen_[j]].narrow(0, step_[j].start, step_[j].count));
    }
    PagedAttention attention = *PagedAttention::Create(&cache_, step_);
    const at::Tensor hidden = decoder_.Forward(at::cat(tokens), attention.Positions(), attention);
    const at::Tensor outputs = OutputsOf(decoder_, hidden);
    int64_t row = 0;
    for (size_t j = 0; j < step_.size(); ++j) {
      rows_[chosen_[j]].push_back(outputs.narrow(0, row, step_[j].count));
      row += step_[j].count;
    }
  }

  Decoder& decoder_;
  const Batch& batch_;
  PhiloxStream& random_;
  KvCache cache_;
  std::vector<int32_t> free_blocks_;
  std::vector<PagedSequence> states_;
  std::vector<std::vector<at::Tensor>> rows_;  // of each sequence
  std::vector<PagedSequence> step_;
  std::vector<size_t> chosen_;  // sequence of each part of the step
};

}  // namespace

at::Tensor RunPaged(Decoder& decoder, const Batch& batch, int64_t block_size,
                    const std::function<int64_t(int64_t remaining)>& next_chunk,
                    PhiloxStream& random) {
  const at::NoGradGuard no_grad;
  return PagedRun(decoder, batch, block_size, random).Run(next_chunk);
}

}  // namespace rollcall::model::testing
