#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/model/decoder.h"
#include "common/model/scoring.h"
#include "rollcall/v1/checkpoint.pb.h"
#include "rollcall/v1/config.pb.h"
#include "services/learner/algorithms/aggregation.h"
#include "services/learner/algorithms/objective.h"
#include "services/learner/algorithms/preference_objective.h"
#include "services/learner/batching/batch.h"
#include "services/learner/batching/pair_selection.h"
#include "services/learner/publish/weight_source.h"
#include "services/learner/trainer/batch_advantages.h"
#include "services/learner/trainer/critic.h"
#include "services/learner/trainer/model_update.h"
#include "services/learner/trainer/pair_totals.h"
#include "services/learner/trainer/preference_pass.h"
#include "services/learner/trainer/process_group.h"
#include "services/learner/trainer/sharded_optimizer.h"
#include "services/learner/trainer/step_totals.h"

namespace rollcall::learner {

// What a training step did.
struct StepReport {
  // Counted from 1.
  uint64_t step = 0;
  // Updates that were not taken because the loss or the gradient was not finite.
  uint64_t skipped_updates = 0;
  // Largest |learner - rollout| log-prob over the on-policy tokens of the first pass, in nats;
  // unset when there is none.
  std::optional<double> gap;
  // The batch's own and those of StepTotals, ReportAdvantages and: train/lr, time/forward_seconds,
  // time/backward_seconds, time/optimizer_seconds, with a critic what Critic reports and
  // time/critic_seconds, train/tokens_per_second (tokens of all ranks through forward and backward,
  // over this rank's times). With several ranks also time/all_reduce_seconds, which rank 0 spent in
  // collectives (most of it is part of time/optimizer_seconds), and train/sent_bytes, what it gave to
  // the others.
  std::map<std::string, double> metrics;
};

// Models beside the policy that an objective may need; each on the policy's device.
struct TrainerCompanions {
  // advantage_baseline critic.
  std::optional<model::Decoder> critic;
  // algorithm.reference_refresh_steps > 0: the reference is then the trainer's own.
  std::optional<model::Decoder> reference;
};

// The model under training with its optimizer: turns batches into updates.
//
// A step is one batch: algorithm.epochs_per_batch passes over algorithm.mini_batches updates (rl),
// or one update (the other stages). Each mini-batch is packed into micro-batches of at most
// learner.micro_batch_tokens; losses are normalised over the mini-batch, so the packing changes
// memory and speed only. Deterministic: equal weights, state and batch (in whatever order its
// sequences come) give the same bits in every run, with any number of threads.
//
// The ranks of a process group train one model: each has all weights, computes on its share of the
// sequences (OwnSequences), and has its part of the optimizer's state. Whatever compares sequences
// (advantages, pairs, whitening) is computed of the whole batch on each. The number of ranks changes
// the order of sums alone. Every method that is marked collective is called on all ranks in the same
// order, with equal arguments unless said, and has the statuses of ProcessGroup too.
//
// One thread owns a trainer. Methods block while they compute; LibTorch's exceptions come out as
// statuses.
class Trainer {
 public:
  // `decoder` holds the initial weights. `group` and `clock` must outlive the trainer.
  // INVALID_ARGUMENT: what ComposeObjective refuses, rl with sampling.temperature 0 (greedy samples
  // carry no ratio), or a companion that the objective needs and does not get.
  static absl::StatusOr<std::unique_ptr<Trainer>> Create(const v1::RunConfig& config,
                                                         model::Decoder decoder,
                                                         ProcessGroup* group,
                                                         Clock* clock = Clock::Real(),
                                                         TrainerCompanions companions = {});

  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  // Trains on one batch. Collective. After an error the weights may be those of a part of the step; the run
  // ends.
  //   INVALID_ARGUMENT     the batch is not what CheckBatch asks for, or a group has a single
  //                        scored sequence
  //   FAILED_PRECONDITION  the first pass over on-policy tokens is more than learner.max_gap away
  //                        from the rollout, and learner.on_gap is fail; nothing was updated
  //   ABORTED              learner.max_consecutive_skipped_steps updates in a row were not finite
  //   RESOURCE_EXHAUSTED   out of memory: lower learner.micro_batch_tokens
  absl::StatusOr<StepReport> TrainStep(TrainBatch batch);

  // Stages of pairs and labelled completions: eval/loss, eval/pairs (or completions) and, with the
  // prefix eval/, what PairTotals and PreferencePass report of held-out ones, which are those that
  // the stage trains on. Changes nothing. INVALID_ARGUMENT and RESOURCE_EXHAUSTED as above.
  absl::StatusOr<std::map<std::string, double>> EvaluatePairs(const TrainBatch& batch);

  // `on_forward` is called, by the owning thread, before each forward pass of a micro-batch: a step
  // goes on, however long it takes.
  void OnForward(std::function<void()> on_forward) { on_forward_ = std::move(on_forward); }

  // Steps taken: 0 is the initial policy.
  uint64_t step() const { return step_; }
  const model::Decoder& decoder() const { return decoder_; }
  const ShardedOptimizer& optimizer() const { return optimizer_; }
  // Null where the objective has none.
  const Critic* critic() const { return critic_.get(); }

  // The present weights as bytes of their own; with an adapter, the adapter's.
  absl::StatusOr<WeightSnapshotPtr> Snapshot() const;

  // Writes the model (Hugging Face layout), or its adapter (PEFT's layout), with the tokenizer files
  // of model.path to `folder`, complete or not at all.
  absl::Status ExportModel(const std::string& folder) const;
  // The model with the adapter, which there must be, added to its weights.
  absl::Status ExportMerged(const std::string& folder) const;
  // The same for the critic, which there must be: a value model that learner.critic.path may name.
  absl::Status ExportCritic(const std::string& folder) const;

  // Writes all that a later LoadState needs into `folder`, which exists: model/ or adapter/,
  // optimizer.safetensors and the ExtraStateFiles, the same for any number of ranks. The caller
  // makes the folder appear as a whole (CheckpointStore). Collective: rank 0 writes, the others
  // call HandOverState meanwhile.
  absl::Status SaveState(const std::string& folder) const;
  absl::Status HandOverState() const;
  // Names of the files that a critic and a refreshed reference have in a checkpoint's folder.
  std::vector<std::string> ExtraStateFiles() const;
  // Fills what the trainer knows of a checkpoint's record: step, skipped steps, trained tokens,
  // numerics, manifest hash.
  absl::Status FillRecord(v1::LearnerCheckpoint& record) const;
  // Goes on from what SaveState wrote, bit for bit, and from `record`'s counters. INVALID_ARGUMENT,
  // NOT_FOUND…: the folder is damaged or of another model; FAILED_PRECONDITION: its adapter is of
  // another base, or one where none is trained, or the other way round. An error in reading or
  // checking the policy's files leaves it as it was; DATA_LOSS, when the weights turn out to be
  // others than the record's manifest hash says, does not, nor does a companion's damaged file.
  absl::Status LoadState(const std::string& folder, const v1::LearnerCheckpoint& record);

  // Makes the state of every rank that of rank 0, before the first step. `loaded_from`: the folder
  // that rank 0 has loaded, "" for none; the others pass "". Collective. DATA_LOSS: the weights that
  // arrived have another hash than those that were sent.
  absl::Status ShareState(const std::string& loaded_from);

 private:
  Trainer(const v1::RunConfig& config, Objective objective,
          std::optional<PreferenceObjective> preferences, model::Decoder decoder,
          ProcessGroup* group, Clock* clock, TrainerCompanions companions,
          std::string base_manifest_hash);

  absl::Status TrainOrdered(TrainBatch& batch, StepReport& report);
  absl::Status TrainSupervised(const TrainBatch& batch, double lr);
  absl::Status TrainPolicy(TrainBatch& batch, StepReport& report, double lr);
  // Online DPO (trainer_pairs.cc).
  absl::Status TrainPairs(const TrainBatch& batch, StepReport& report, double lr);
  absl::Status RunPairs(const TrainBatch& batch, std::span<const SequencePair> pairs,
                        bool first_pass, double lr);
  absl::Status RunPairMicroBatch(const TrainBatch& batch, const PackedBatch& packed,
                                 bool first_pass, double pairs_of_all);
  // Log-probs of the tokens in the loss under `decoder` as it is, sequence by sequence; every rank
  // computes its share and has all.
  absl::StatusOr<std::vector<std::vector<float>>> LogprobsUnder(model::Decoder& decoder,
                                                                const TrainBatch& batch);
  // Fills the batch's reference log-probs from the trainer's own reference.
  absl::Status ScoreReference(TrainBatch& batch);
  void RefreshReference(uint64_t step);
  // of_all: indices of a mini-batch, the same on every rank.
  absl::Status RunCritic(const TrainBatch& batch, const std::vector<size_t>& of_all,
                         const BatchAdvantages& advantages, uint64_t step);
  absl::Status RunMiniBatch(const TrainBatch& batch, const std::vector<size_t>& of_all,
                            const BatchAdvantages& advantages, bool first_pass, double lr);
  absl::Status RunMicroBatch(const TrainBatch& batch, const PackedBatch& packed,
                             const BatchAdvantages& advantages, bool first_pass,
                             const LossDenominators& denominators);
  absl::StatusOr<model::TokenScores> Score(model::Decoder& decoder, const PackedBatch& packed,
                                           model::EntropyMode entropy);
  TokenLoss LossOf(const PackedBatch& packed, const BatchAdvantages& advantages,
                   const model::TokenScores& scores) const;
  // One update from this rank's part of the recorded pairs, stage reward_model (reward_model_step.cc).
  absl::Status TrainRewardModel(const TrainBatch& batch, StepReport& report, double lr);
  // RewardModelLoss of the pairs whose sequences are at `places`: [pairs].
  absl::StatusOr<at::Tensor> PairLosses(const TrainBatch& batch, const std::vector<size_t>& places,
                                        PairTotals& totals);
  // The value at the end of each packed sequence: [sequences].
  absl::StatusOr<at::Tensor> Rewards(const TrainBatch& batch, const PackedBatch& packed);
  absl::StatusOr<std::map<std::string, double>> EvaluateRewards(const TrainBatch& batch);
  // Stages dpo, simpo, orpo and kto (preference_step.cc); batch: this rank's part.
  absl::Status TrainPreferences(const TrainBatch& batch, StepReport& report, double lr);
  absl::StatusOr<std::map<std::string, double>> EvaluatePreferences(const TrainBatch& batch);
  // What the batch's loss is divided by, over all of `group`, and KTO's KL.
  absl::StatusOr<PreferenceScale> ScalePreferences(const TrainBatch& batch, ProcessGroup& group);
  BatchRequirements Requirements() const;
  // Collective, as the largest gap of all ranks is judged.
  absl::Status JudgeGap();
  absl::StatusOr<std::string> ManifestHash() const;  // PolicyVersion's, of the present weights
  absl::Status CheckKind(const std::string& folder) const;
  absl::Status LoadWeights(const std::string& folder);
  absl::Status LoadCompanions(const std::string& folder);
  void TakeCounters(const v1::LearnerCheckpoint& record);
  absl::Status CheckHash(const v1::LearnerCheckpoint& record, const std::string& source) const;
  // This rank's of the sequences at `places`.
  std::vector<size_t> Own(const TrainBatch& batch, std::span<const size_t> places) const;
  absl::Status Update(double loss, double lr);
  // Books an update of the policy or the critic; ABORTED after too many in a row were not finite.
  absl::Status NoteUpdate(const char* model, const ModelUpdate& update);
  // Over all ranks' sequences of a mini-batch. indices: this rank's.
  absl::StatusOr<LossDenominators> GlobalDenominators(const TrainBatch& batch,
                                                      const std::vector<size_t>& indices);
  void ReportTimes(StepReport& report) const;

  const v1::RunConfig config_;
  const bool supervised_;
  const Objective objective_;
  const std::optional<PreferenceObjective> preferences_;  // of dpo, simpo, orpo and kto
  const double temperature_;
  ProcessGroup* const group_;
  Clock* const clock_;

  model::Decoder decoder_;
  // With an adapter: of the weights that it adapts, as they were at the start. Else empty.
  const std::string base_manifest_hash_;
  ShardedOptimizer optimizer_;
  std::unique_ptr<Critic> critic_;
  std::optional<model::Decoder> reference_;
  uint64_t step_ = 0;
  uint64_t consecutive_skipped_ = 0;
  uint64_t skipped_ = 0;
  uint64_t trained_tokens_ = 0;
  // objective_.kl_coefficient until an adaptive one moves; part of a checkpoint.
  double kl_coefficient_;

  // Of the step being taken.
  StepTotals totals_;
  // The policy's log-probs before its first update; empty where the objective corrects no
  // behaviour.
  std::vector<std::vector<float>> proximal_;
  // The critic's values before its first update; empty without one.
  Critic::Columns old_values_;
  absl::Duration forward_time_, backward_time_, optimizer_time_, critic_time_;
  std::function<void()> on_forward_;  // may be empty
};

}  // namespace rollcall::learner
