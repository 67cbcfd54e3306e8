#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "services/cli/inspect/memory_estimate.h"

namespace rollcall::explain {

// One named line for a person: {"loss", "L = 1/T · Σ …"}.
struct Line {
  std::string name;
  std::string text;
};

// A combination that is known to train badly or to mislead.
struct Warning {
  std::string id;       // "gspo_clip"; stable, for programs
  std::string field;    // "algorithm.clip_high": where to change it
  std::string message;  // what happens, and what to take instead
};

// How one step's data is cut up. Counts of sequences are those of a full batch: dropped groups make
// it smaller.
struct BatchArithmetic {
  uint64_t prompts = 0;        // of one rollout batch
  uint64_t samples = 0;        // of one prompt
  uint64_t extra_samples = 0;  // of one prompt, that are no training data (ReMax's greedy one)
  uint64_t sequences = 0;
  uint64_t mini_batches = 1;
  uint64_t mini_batch_sequences = 0;
  uint64_t longest_sequence = 0;  // tokens
  // Micro-batches of one mini-batch where every sequence is as long as it may be.
  uint64_t most_micro_batches = 0;
  uint64_t optimizer_steps = 0;  // for each rollout batch
  uint64_t on_policy_steps = 0;  // of those: their data was sampled by the very weights they change
  uint64_t total_optimizer_steps = 0;
  uint64_t total_prompts = 0;
};

// One model in one process, as many times as the run has it.
struct ModelMemory {
  std::string phase;  // of a chain: the step that has it in memory, "2-revisions"
  std::string name;   // "generator", "critic"
  std::string path;
  uint32_t copies = 1;
  std::string unknown;  // why there is no estimate; empty: there is one
  inspect::MemoryEstimate estimate;
};

// How much of the model under training is trained. All 0: not known, or nothing is.
struct TrainedPart {
  int64_t parameters = 0;  // of the whole model
  int64_t trained = 0;
  int64_t optimizer_bytes = 0;
  int64_t published_bytes = 0;  // a version, to each generator
  std::vector<Line> lines;
};

struct Explanation {
  std::string name;
  std::string stage;            // "rl"
  std::string preset;           // empty but for stage rl
  std::vector<Line> chain;      // steps of stage rlaif
  std::vector<Line> changed;    // cells that are not the preset's
  std::vector<Line> objective;  // formulas with their numbers
  std::vector<Line> denominators;
  BatchArithmetic batch;
  std::vector<Line> batch_lines;
  TrainedPart trained;
  std::vector<ModelMemory> models;
  std::vector<Warning> warnings;
};

}  // namespace rollcall::explain
