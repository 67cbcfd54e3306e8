#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "common/base/shutdown.h"

namespace rollcall::cli {

struct DemoOptions {
  // Where everything is put; must not exist yet.
  std::string folder;
  uint64_t seed = 0;
  // Print one last line of JSON (and nothing else on stdout).
  bool json = false;
  // Overrides for both stages ("learner.threads=1"), and for one.
  std::vector<std::string> sets;
  std::vector<std::string> sft_sets;
  std::vector<std::string> rl_sets;
};

// Makes the addition task, trains a tiny Llama from scratch by SFT to a middling accuracy, then by
// GRPO through the generator, reward, reference and learner services to a much higher one, and
// reports accuracy on held-out prompts. Blocks for some minutes; call from the main thread.
absl::Status RunDemo(const DemoOptions& options, Shutdown& shutdown);

}  // namespace rollcall::cli
