#pragma once

#include <cstdint>

namespace rollcall::learner {

// Streams of the run's seed that shuffle data; initialisation uses those from 0. Each of 2^16 sources
// has 2^40 streams, one an epoch, for the order of its rows or of its blocks of rows.
inline constexpr uint64_t EpochStream(uint64_t source, uint64_t epoch) {
  return (uint64_t{1} << 56) + (source << 40) + epoch;
}

// For the order of the rows within a window of blocks. Of epochs and windows 2^20 are told apart: a
// window of 16 MiB each, 16 TiB.
inline constexpr uint64_t WindowStream(uint64_t source, uint64_t epoch, uint64_t window) {
  constexpr uint64_t kMask = (uint64_t{1} << 20) - 1;
  return (uint64_t{1} << 57) + (source << 40) + ((epoch & kMask) << 20) + (window & kMask);
}

}  // namespace rollcall::learner
