#pragma once

// Kernels of a mixture of experts. Included only by the kernels_*.cc files.

#include "common/model/kernels/rows_impl.h"

namespace rollcall::model::kernels {
namespace {

// Marks the `top` largest logits, of equal ones the lower index first, and lists them upwards.
void ChooseExperts(const RouteArgs& args, const float* logits, int64_t* chosen) {
  bool taken[kMaxExperts] = {};
  for (int64_t i = 0; i < args.top; ++i) {
    int64_t best = -1;
    for (int64_t j = 0; j < args.experts; ++j) {
      if (!taken[j] && (best < 0 || logits[j] > logits[best])) best = j;
    }
    taken[best] = true;
  }
  for (int64_t j = 0; j < args.experts; ++j) {
    if (taken[j]) *chosen++ = j;
  }
}

// Fills e: [experts] with exp(logit - m) and returns their lane sum.
float RouterExponentials(const float* logits, int64_t experts, float* e) {
  Lanes largest = SplatLanes(-__builtin_inff());
  for (int64_t j = 0; j < experts; j += kLanes) {
    largest = Larger(LoadLanes(logits + j, experts - j, -__builtin_inff()), largest);
  }
  const Lanes m = SplatLanes(LargestOf(largest));
  Lanes sum = SplatLanes(0.0f);
  for (int64_t j = 0; j < experts; j += kLanes) {
    const int64_t count = experts - j;
    StoreLanes(e + j, Exp(LoadLanes(logits + j, count, 0.0f) - m), count);
    sum = sum + LoadLanes(e + j, count, 0.0f);
  }
  return SumOf(sum);
}

void Route(const RouteArgs& args, int64_t begin, int64_t end) {
  float e[kMaxExperts];
  for (int64_t row = begin; row < end; ++row) {
    const float* logits = args.logits + row * args.experts;
    int64_t* chosen = args.chosen + row * args.top;
    float* weights = args.weights + row * args.top;
    ChooseExperts(args, logits, chosen);
    const float total = RouterExponentials(logits, args.experts, e);
    float chosen_total = 0.0f;
    for (int64_t i = 0; i < args.top; ++i) chosen_total += e[chosen[i]];
    for (int64_t i = 0; i < args.top; ++i) {
      weights[i] = args.normalize ? e[chosen[i]] / chosen_total : e[chosen[i]] * (1.0f / total);
    }
  }
}

// With w the weights and d their gradients: normalizing, w is the softmax of the chosen logits and
// dlogit_i = w_i (d_i - sum w d) for those alone; else, with p the softmax of all logits,
// dlogit_j = p_j (d_j - sum w d) where d_j = 0 for the others.
void RouteBackward(const RouteArgs& args, int64_t begin, int64_t end) {
  float p[kMaxExperts];
  for (int64_t row = begin; row < end; ++row) {
    const int64_t* chosen = args.chosen + row * args.top;
    const float* weights = args.weights + row * args.top;
    const float* d = args.dweights + row * args.top;
    float* dlogits = args.dlogits + row * args.experts;
    float mean = 0.0f;
    for (int64_t i = 0; i < args.top; ++i) mean += weights[i] * d[i];
    float inverse = 0.0f;
    if (!args.normalize) {
      inverse = 1.0f / RouterExponentials(args.logits + row * args.experts, args.experts, p);
    }
    for (int64_t j = 0; j < args.experts; ++j) {
      dlogits[j] = args.normalize ? 0.0f : -p[j] * inverse * mean;
    }
    for (int64_t i = 0; i < args.top; ++i) dlogits[chosen[i]] = weights[i] * (d[i] - mean);
  }
}

template <typename T>
void CombineRows(const CombineArgs& args, int64_t begin, int64_t end) {
  for (int64_t token = begin; token < end; ++token) {
    const int64_t* slots = args.slots + token * args.top;
    const float* weights = args.weights == nullptr ? nullptr : args.weights + token * args.top;
    T* y = static_cast<T*>(args.y) + token * args.width;
    for (int64_t j = 0; j < args.width; j += kLanes) {
      const int64_t count = args.width - j;
      Lanes sum = SplatLanes(0.0f);
      for (int64_t i = 0; i < args.top; ++i) {
        const Lanes row = LoadLanes(args.rows + slots[i] * args.width + j, count, 0.0f);
        sum = weights == nullptr ? sum + row : Fma(SplatLanes(weights[i]), row, sum);
      }
      StoreLanes(y + j, sum, count);
    }
  }
}

void Combine(const CombineArgs& args, int64_t begin, int64_t end) {
  WithElement(args.type, [&](auto* t) { CombineRows<PointeeOf<decltype(t)>>(args, begin, end); });
}

template <typename T>
void WeighRows(const WeighArgs& args, int64_t begin, int64_t end) {
  for (int64_t slot = begin; slot < end; ++slot) {
    const float* u = args.u + slot * args.width;
    const T* a = static_cast<const T*>(args.activations) + slot * args.width;
    T* da = static_cast<T*>(args.dactivations) + slot * args.width;
    const Lanes weight = SplatLanes(args.slot_weights[slot]);
    Lanes sum = SplatLanes(0.0f);
    for (int64_t j = 0; j < args.width; j += kLanes) {
      const int64_t count = args.width - j;
      const Lanes value = LoadLanes(u + j, count, 0.0f);
      sum = Fma(value, LoadLanes(a + j, count, 0.0f), sum);
      StoreLanes(da + j, weight * value, count);
    }
    args.dweights[slot] = SumOf(sum);
  }
}

void Weigh(const WeighArgs& args, int64_t begin, int64_t end) {
  WithElement(args.type, [&](auto* t) { WeighRows<PointeeOf<decltype(t)>>(args, begin, end); });
}

}  // namespace
}  // namespace rollcall::model::kernels
