#pragma once

// The log-softmax head. Included only by the kernels_*.cc files.

#include "common/model/kernels/simd.h"

namespace rollcall::model::kernels {
namespace {

struct RowStatistics {
  float largest;
  double total, weighted;
};

RowStatistics Summarize(const float* logits, int64_t vocab, float inverse_temperature) {
  // About 256 additions a lane: the rounding of a block stays near 1e-6 however large the
  // vocabulary.
  constexpr int64_t kColumnBlock = 4096;
  const Lanes scale = SplatLanes(inverse_temperature);
  const float lowest = -__builtin_inff();
  Lanes largest = SplatLanes(lowest);
  for (int64_t j = 0; j < vocab; j += kLanes) {
    const Lanes z = LoadLanes(logits + j, vocab - j, lowest) * scale;
    largest = Larger(z, largest);
  }
  RowStatistics row{LargestOf(largest), 0.0, 0.0};
  const Lanes m = SplatLanes(row.largest);
  for (int64_t block = 0; block < vocab; block += kColumnBlock) {
    const int64_t end = Min(vocab, block + kColumnBlock);
    Lanes total = SplatLanes(0.0f), weighted = SplatLanes(0.0f);
    for (int64_t j = block; j < end; j += kLanes) {
      const int64_t count = end - j;
      const Lanes shifted = LoadLanes(logits + j, count, 0.0f) * scale - m;
      Lanes e = Exp(shifted);
      if (count < kLanes) {
        float lane[kLanes];
        StoreLanes(lane, e);
        e = LoadLanes(lane, count, 0.0f);
      }
      total = total + e;
      weighted = Fma(e, shifted, weighted);
    }
    row.total += static_cast<double>(SumOf(total));
    row.weighted += static_cast<double>(SumOf(weighted));
  }
  return row;
}

void Score(const ScoreArgs& args, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const float* logits = args.logits + i * args.vocab;
    const RowStatistics row = Summarize(logits, args.vocab, args.inverse_temperature);
    const double log_total = __builtin_log(row.total);
    const float target = logits[args.targets[i]] * args.inverse_temperature;
    args.logprob[i] = static_cast<float>(static_cast<double>(target - row.largest) - log_total);
    if (args.entropy != nullptr) {
      args.entropy[i] = static_cast<float>(log_total - row.weighted / row.total);
    }
  }
}

// With log p = z - m - log(total), H the entropy, a = dlogprob, b = dentropy:
// dz_j = a (1[j = target] - p_j) - b p_j (log p_j + H), and dlogit = dz / temperature.
void ScoreBackward(const ScoreArgs& args, int64_t begin, int64_t end) {
  const Lanes scale = SplatLanes(args.inverse_temperature);
  for (int64_t i = begin; i < end; ++i) {
    float* logits = args.logits + i * args.vocab;
    const RowStatistics row = Summarize(logits, args.vocab, args.inverse_temperature);
    const float a = args.dlogprob == nullptr ? 0.0f : args.dlogprob[i];
    const float b = args.dentropy == nullptr ? 0.0f : args.dentropy[i];
    const Lanes m = SplatLanes(row.largest);
    const Lanes inverse_total = SplatLanes(static_cast<float>(1.0 / row.total));
    // log p + H = shifted - weighted / total: the logarithms cancel.
    const Lanes mean_shift = SplatLanes(static_cast<float>(row.weighted / row.total));
    for (int64_t j = 0; j < args.vocab; j += kLanes) {
      const int64_t count = args.vocab - j;
      const Lanes shifted = LoadLanes(logits + j, count, 0.0f) * scale - m;
      const Lanes p = Exp(shifted) * inverse_total;
      const Lanes factor = Fma(SplatLanes(-b), shifted - mean_shift, SplatLanes(-a));
      StoreLanes(logits + j, p * factor * scale, count);
    }
    logits[args.targets[i]] += a * args.inverse_temperature;
  }
}

}  // namespace
}  // namespace rollcall::model::kernels
