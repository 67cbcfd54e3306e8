#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace rollcall::learner {

// Divides sequences into micro-batches of at most `token_budget` tokens: first-fit decreasing
// (longest first, each into the first micro-batch with room), which needs at most 11/9 of the
// fewest possible plus one (Johnson, 1973).
//
// lengths: tokens of each sequence. Returns indices into it, ascending within a micro-batch,
// micro-batches ordered by their first index; every sequence is in exactly one. A sequence longer
// than the budget is alone in its own. Pure: equal lengths in equal order give equal micro-batches.
std::vector<std::vector<size_t>> PackByTokens(std::span<const size_t> lengths, size_t token_budget);

// The same for units of two sequences, at 2 * i and 2 * i + 1, which stay together. lengths: tokens
// of each sequence, an even number of them.
std::vector<std::vector<size_t>> PackTwosByTokens(std::span<const size_t> lengths,
                                                  size_t token_budget);

}  // namespace rollcall::learner
