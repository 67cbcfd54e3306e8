#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/shutdown.h"
#include "rollcall/v1/config.pb.h"
#include "services/cli/eval/statistics.h"

namespace rollcall::cli {

struct ModelEvaluationOptions {
  // Per-sample JSONL; empty: none.
  std::string out;
  // A sample passes when its reward is at least this.
  double threshold = 1;
  // A line on standard error that follows it.
  bool progress = false;
};

struct ModelEvaluation {
  EvaluationFigures figures;
  double mean_tokens = 0;
  // Prompts whose samples were in the file already.
  uint64_t resumed = 0;
  // Prompts that could not be sampled or scored, in no figure, and why the first one could not.
  uint64_t failed = 0;
  absl::Status first_failure;
};

// Samples and scores every prompt of data.evaluation with a generator and a reward service of its
// own, without a learner. `config`: stage eval. Blocks; call from the main thread. CANCELLED when
// shutdown is requested: what was finished by then is in `out`.
absl::StatusOr<ModelEvaluation> EvaluateModel(const v1::RunConfig& config,
                                              const ModelEvaluationOptions& options,
                                              Shutdown& shutdown);

}  // namespace rollcall::cli
