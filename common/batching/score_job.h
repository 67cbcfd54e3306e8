#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace rollcall::batching {

// One admitted request: sequences that a frozen model scores, in however many forward passes. It is
// answered exactly once, whoever comes first: the engine with results or an error, or the queue
// when it expires. Fields up to `done` are constant after admission; `results` and `remaining`
// belong to the engine thread.
//
//   Sequence  has token_ids, a vector
//   Answer    what the model says of one sequence
//   Mode      what all sequences of one forward pass must share; comparable
template <typename SequenceType, typename AnswerType, typename ModeType>
struct ScoreJob {
  using Sequence = SequenceType;
  using Answers = std::vector<AnswerType>;
  using Result = absl::StatusOr<Answers>;

  std::vector<Sequence> sequences;
  ModeType mode;
  absl::Time deadline = absl::InfiniteFuture();
  std::function<void(Result)> done;

  Answers results;
  size_t remaining = 0;

  // Set by the RPC thread when the caller went away; what is left of the job is then skipped.
  std::atomic<bool> cancelled = false;

  void Answer(Result result) {
    if (answered_.exchange(true)) return;
    const auto answer = std::move(done);  // it may hold the job
    answer(std::move(result));
  }
  bool answered() const { return answered_; }

 private:
  std::atomic<bool> answered_ = false;
};

// Sequences of one or more jobs that are scored in one forward pass; all share the mode.
template <typename Job>
struct Batch {
  struct Item {
    std::shared_ptr<Job> job;
    size_t sequence = 0;  // index into job->sequences
  };
  std::vector<Item> items;
  size_t tokens = 0;
};

}  // namespace rollcall::batching
