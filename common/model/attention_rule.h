#pragma once

#include <cstdint>

namespace rollcall::model {

// How the scores of one layer's attention become weights; the arithmetic is at
// kernels::AttentionShape.
struct AttentionRule {
  double scale = 1.0;
  double softcap = 0.0;  // 0: none
  int64_t window = 0;    // tokens that a query sees, its own included; 0: all before it
};

}  // namespace rollcall::model
