#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/progress.h"
#include "common/text/tokenizer.h"
#include "rollcall/v1/checkpoint.pb.h"
#include "rollcall/v1/config.pb.h"
#include "services/learner/batching/batch.h"
#include "services/learner/learner_metrics.h"
#include "services/learner/metrics_log.h"
#include "services/learner/rank_link.h"
#include "services/learner/reference_stack.h"
#include "services/learner/rollout/ledger.h"
#include "services/learner/rollout_stack.h"
#include "services/learner/run_control.h"
#include "services/learner/step_values.h"
#include "services/learner/trainer/checkpoint_store.h"
#include "services/learner/trainer/process_group.h"
#include "services/learner/trainer/trainer.h"
#include "services/learner/training_data.h"

namespace rollcall::learner {

// One run, from its first line to its last: resumes or starts, opens a lineage, and steps until it
// is done, stopped or failed. A step is: the batch (rollouts or demonstrations), one training step,
// the new version to every generator, an evaluation where one is due, one line of figures, a
// checkpoint where one is due. The stages differ in the source of batches and in what they need of
// the other services.
//
// The run folder holds
//   config.yaml  lineage  metrics.jsonl  rollouts/lineage-NNNNNN.rec  checkpoints/step-NNNNNNNN/
//   final/  final_merged/  final_critic/
// and is all that a later start needs. `final` appears, whole, when the last step is done: the
// model, or its adapter, and with that `final_merged` where model.lora.merge_on_export asks for it;
// `final_critic` where the objective has a critic.
//
// With several ranks this is rank 0, which does all of that and tells the others (RankFollower) what
// to take part in. Losing one of them ends the run with an error that IsPeerLost; a later start goes
// on from the last checkpoint.
//
// Run and everything it calls belong to the training thread.
class Learner {
 public:
  // `config`, `metrics` and `control` must outlive it. `on_metrics` is given the run's figures once
  // they can be watched, the model being loaded. `progress` is told of training steps and their
  // forward passes; for rollouts there is learner.stall_timeout.
  Learner(const v1::RunConfig& config, LearnerMetrics* metrics, RunControl* control,
          std::function<void(std::shared_ptr<MetricsLog>)> on_metrics,
          std::shared_ptr<Progress> progress = std::make_shared<Progress>());

  // Blocks until the run is over. OK: done, or stopped with a checkpoint. Otherwise the failure; a
  // run that failed while it waited (a service that did not come up, a stall) has left a checkpoint
  // of its last step, unless it is fenced.
  absl::Status Run();

 private:
  // Preparation, in this order.
  absl::Status LoadModelAndState();
  void ReportTrained() const;
  absl::Status LoadCheckpoint();
  absl::Status OpenRun();
  absl::Status StartRollouts();
  absl::Status ReadData();
  // Stages dpo and kto: finds the references and completes the held-out rows.
  absl::Status StartReferences();
  CoordinatorOptions WhereToStart() const;
  // Opens this lineage's rollout file; finds out which groups of earlier ones need not be made again.
  absl::Status OpenLedger(const v1::PolicyVersion& version, CoordinatorOptions& options);

  absl::Status Train();
  // One step; false when the run is to end without error (stopped, or the data is used up).
  absl::StatusOr<bool> Step(uint64_t step);
  absl::Status AfterStep(const StepReport& report, StepValues values);
  absl::Status EvaluateOnly();
  // Adds the figures to `values`.
  absl::Status Evaluate(StepValues& values);
  bool EvaluationDue(uint64_t step) const;

  // Trainer::TrainStep on every rank.
  absl::StatusOr<StepReport> TrainOnRanks(TrainBatch batch);

  // The trainer's weights with their identity.
  absl::StatusOr<PreparedVersionPtr> Prepare() const;
  void Publish(PreparedVersionPtr version);
  absl::Status PublishCurrent();

  absl::Status SaveCheckpoint();
  absl::Status AnswerCheckpointRequests();
  absl::Status CheckNotFenced() const;
  absl::Status Finish(bool completed);
  void SaveWhatThereIs(const absl::Status& failure);
  void Report(uint64_t step, const StepValues& values);

  const v1::RunConfig& config_;
  LearnerMetrics* const metrics_;
  RunControl* const control_;
  const std::function<void(std::shared_ptr<MetricsLog>)> on_metrics_;
  const std::shared_ptr<Progress> progress_;
  const std::string run_dir_;

  std::unique_ptr<ProcessGroup> process_group_;
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<RankLeader> ranks_;  // null on one rank
  CheckpointStore checkpoints_;
  v1::LearnerCheckpoint resumed_;  // of a fresh start: empty
  v1::LineageRecord lineage_;
  VersionIdentity identity_;
  std::shared_ptr<MetricsLog> log_;
  std::unique_ptr<Ledger> ledger_;
  TrainingData data_;

  // The pointers below, between the training thread that sets them and OnInterrupt.
  absl::Mutex mutex_;
  std::unique_ptr<RolloutStack> stack_;
  std::unique_ptr<ReferenceStack> references_;
  BatchSource* source_ = nullptr;
  RolloutCoordinator* coordinator_ = nullptr;
  Evaluator* evaluator_ = nullptr;

  std::optional<uint64_t> published_step_;
  uint64_t published_bytes_ = 0;  // of that version, to each generator
  std::optional<uint64_t> saved_step_;
  std::optional<uint64_t> evaluated_step_;
  StepValues evaluation_;  // of evaluated_step_
};

}  // namespace rollcall::learner
