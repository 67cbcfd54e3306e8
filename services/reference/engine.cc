#include "services/reference/engine.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/logging.h"

namespace rollcall::reference {

absl::StatusOr<std::unique_ptr<Engine>> Engine::Start(Loader load, BatchQueue* queue,
                                                      ReferenceMetrics* metrics) {
  auto engine = std::unique_ptr<Engine>(new Engine(queue, metrics));
  engine->thread_ =
      std::thread([engine = engine.get(), load = std::move(load)] { engine->Run(load); });
  absl::Status status;
  {
    absl::MutexLock lock(&engine->mutex_);
    engine->mutex_.Await(absl::Condition(&engine->loaded_));
    status = engine->load_status_;
  }
  if (!status.ok()) return status;
  return engine;
}

Engine::~Engine() {
  queue_->Close();
  if (thread_.joinable()) thread_.join();
}

void Engine::Run(const Loader& load) {
  absl::StatusOr<std::unique_ptr<Scorer>> scorer = load();
  if (scorer.ok()) description_ = (*scorer)->description();
  {
    absl::MutexLock lock(&mutex_);
    load_status_ = scorer.status();
    loaded_ = true;
  }
  if (!scorer.ok()) return;
  while (std::optional<Batch> batch = queue_->Next()) {
    ScoreBatch(**scorer, *batch);
    metrics_->waiting_sequences.Set(static_cast<double>(queue_->waiting_sequences()));
  }
  absl::MutexLock lock(&mutex_);
  drained_ = true;
}

bool Engine::AwaitDrained(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithDeadline(absl::Condition(&drained_), deadline);
}

void Engine::ScoreBatch(Scorer& scorer, const Batch& batch) {
  const absl::Time start = absl::Now();
  absl::StatusOr<std::vector<ScoredSequence>> scored = scorer.Score(batch);
  if (scored.ok() && scored->size() != batch.items.size()) {
    scored = absl::InternalError(
        absl::StrCat("the model answered ", scored->size(), " sequences of ", batch.items.size()));
  }
  if (!scored.ok()) {
    LogError(
        "batch failed",
        {{"sequences", batch.items.size()}, {"tokens", batch.tokens}, {"error", scored.status()}});
    metrics_->failed_batches.Increment();
    for (const Batch::Item& item : batch.items) item.job->Answer(scored.status());
    return;
  }
  metrics_->batches.Increment();
  metrics_->tokens.Increment(static_cast<double>(batch.tokens));
  metrics_->batch_seconds.Observe(absl::ToDoubleSeconds(absl::Now() - start));
  for (size_t i = 0; i < batch.items.size(); ++i) {
    ScoreJob& job = *batch.items[i].job;
    job.results[batch.items[i].sequence] = std::move((*scored)[i]);
    if (--job.remaining == 0) job.Answer(std::move(job.results));
  }
}

}  // namespace rollcall::reference
