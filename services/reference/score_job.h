#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace rollcall::reference {

// One sequence to score: log-probs of token_ids[score_from..] given everything before each.
struct SequenceToScore {
  std::vector<uint32_t> token_ids;
  uint32_t score_from = 1;
};

// The answer for one sequence; one entry per token from score_from to the end.
struct ScoredSequence {
  std::vector<float> logprobs;   // nats, <= 0
  std::vector<float> entropies;  // nats, >= 0; empty unless asked for
};

// One admitted request. It is answered exactly once, whoever comes first: the engine with results
// or an error, or the queue when it expires. Fields up to `done` are constant after admission;
// `results` and `remaining` belong to the engine thread.
struct ScoreJob {
  using Result = absl::StatusOr<std::vector<ScoredSequence>>;

  std::vector<SequenceToScore> sequences;
  float temperature = 1;
  bool with_entropy = false;
  absl::Time deadline = absl::InfiniteFuture();
  std::function<void(Result)> done;

  std::vector<ScoredSequence> results;
  size_t remaining = 0;

  // Set by the RPC thread when the caller went away; what is left of the job is then skipped.
  std::atomic<bool> cancelled = false;

  void Answer(Result result) {
    if (!answered_.exchange(true)) done(std::move(result));
  }
  bool answered() const { return answered_; }

 private:
  std::atomic<bool> answered_ = false;
};

using ScoreJobPtr = std::shared_ptr<ScoreJob>;

}  // namespace rollcall::reference
