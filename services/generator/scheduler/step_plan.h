#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace rollcall::generator {

// Names a sample inside one scheduler. Ids grow with age of arrival: of two samples the lower id
// came first.
using SampleId = uint64_t;
// Names a request's group of samples.
using GroupId = uint64_t;

// Block `to` becomes a copy of block `from`.
struct BlockCopy {
  uint32_t from;
  uint32_t to;
};

// Tokens [begin, begin + count) of a sample's trajectory (prompt, then completion) to run through
// the model. They take `count` consecutive rows of the step. Keys and values of all earlier tokens
// are in the sample's blocks already.
struct StepChunk {
  SampleId sample;
  uint32_t begin;
  uint32_t count;
  uint32_t first_row;
  // The sample's block table, [block_begin, block_end) of StepPlan::block_ids: token t lives in
  // entry t / block_tokens.
  uint32_t block_begin;
  uint32_t block_end;
};

// The next token of `sample` is drawn from the logits of row `row`; its position in the trajectory
// is `position`. Several samples may draw from one row: the last token of a prompt they share.
struct StepDraw {
  SampleId sample;
  uint32_t row;
  uint32_t position;
  // Some of the sample's keys and values are of earlier weights.
  bool mixed = false;
};

// What one engine step does, in this order: the copies (one after the other: a later one may
// overwrite an earlier one's source), the model on all rows of all chunks, the draws. A plain
// value.
struct StepPlan {
  std::vector<BlockCopy> copies;
  std::vector<StepChunk> chunks;
  std::vector<uint32_t> block_ids;
  std::vector<StepDraw> draws;
  // Samples that lost their blocks to older ones; they go on later by computing them again.
  std::vector<SampleId> preempted;
  uint32_t rows = 0;
  // Of the samples that started in this step: how many looked for their tokens in the prefix cache,
  // how many found some, and how many tokens those were, which nobody computes again.
  uint32_t cache_lookups = 0;
  uint32_t cache_hits = 0;
  uint32_t cache_hit_tokens = 0;
  // Of `rows`, those whose sample had just one token left to compute.
  uint32_t decode_rows = 0;

  bool empty() const { return chunks.empty(); }
  std::span<const uint32_t> blocks(const StepChunk& chunk) const {
    return std::span(block_ids).subspan(chunk.block_begin, chunk.block_end - chunk.block_begin);
  }
};

}  // namespace rollcall::generator
