#pragma once

#include <cstdint>

namespace rollcall::bench {

// What this machine can do at most, measured now with `threads` threads. The loops keep everything
// in registers (or do nothing but read), so no kernel can be faster.
struct Rooflines {
  double stream_read_gb_per_s;  // reading 512 MiB from memory, again and again
  double fma_gflop_per_s;       // float32 multiply-adds, two operations each
  double bf16_dot_gflop_per_s;  // vdpbf16ps; that of fma where the processor lacks it
};

Rooflines MeasureRooflines(int threads);

}  // namespace rollcall::bench
