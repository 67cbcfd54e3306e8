#include "services/learner/trainer/trainer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"
#include "common/base/status.h"
#include "common/config/preference_rules.h"
#include "common/model/attention_context.h"
#include "common/model/identity.h"
#include "common/model/scoring.h"
#include "common/tensor/torch_call.h"
#include "services/learner/batching/mini_batch.h"
#include "services/learner/batching/packing.h"
#include "services/learner/batching/rank_share.h"
#include "services/learner/trainer/lr_schedule.h"
#include "services/learner/trainer/rank_columns.h"
#include "services/learner/trainer/reward_permutation.h"
#include "services/learner/trainer/written_number.h"

namespace rollcall::learner {
namespace {

template <typename T>
at::Tensor ToTensor(const std::vector<T>& values, const at::Device& device) {
  return at::tensor(values).to(device);
}

// The packed sequences' own columns, one after the other.
std::vector<float> OfTokens(const PackedBatch& packed,
                            const std::vector<std::vector<float>>& of_sequences) {
  std::vector<float> tokens;
  for (const size_t sequence : packed.sequences) {
    tokens.insert(tokens.end(), of_sequences[sequence].begin(), of_sequences[sequence].end());
  }
  return tokens;
}

// Takes completions that were cut off out of the loss; returns how many.
double MaskTruncated(TrainBatch& batch) {
  double masked = 0;
  for (TrainSequence& sequence : batch.sequences) {
    if (!sequence.truncated) continue;
    std::fill(sequence.loss_mask.begin(), sequence.loss_mask.end(), uint8_t{0});
    ++masked;
  }
  return masked;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(const v1::RunConfig& config,
                                                         model::Decoder decoder,
                                                         ProcessGroup* group, Clock* clock,
                                                         TrainerCompanions companions) {
  Objective objective;
  std::optional<PreferenceObjective> preferences;
  if (config::LearnsFromPreferences(config.stage())) {
    ROLLCALL_ASSIGN_OR_RETURN(preferences,
                              ComposePreferenceObjective(config.stage(), config.preference()));
  } else if (config.stage() != v1::STAGE_SFT && config.stage() != v1::STAGE_REWARD_MODEL) {
    ROLLCALL_ASSIGN_OR_RETURN(objective,
                              ComposeObjective(config.algorithm(), config.sampling().max_tokens()));
    if (config.sampling().temperature() <= 0) {
      return absl::InvalidArgumentError(
          "sampling.temperature: greedy samples carry no probability ratio; rl needs more than 0");
    }
    if (objective.needs_critic() && !companions.critic.has_value()) {
      return absl::InvalidArgumentError("algorithm.advantage_baseline: critic needs a critic");
    }
    if (objective.needs_reference() && config.algorithm().reference_refresh_steps() > 0 &&
        !companions.reference.has_value()) {
      return absl::InvalidArgumentError(
          "algorithm.reference_refresh_steps: needs the reference in the learner");
    }
  }
  return tensor::TorchCall([&]() -> absl::StatusOr<std::unique_ptr<Trainer>> {
    std::string base;
    if (decoder.lora() != nullptr) {
      ROLLCALL_ASSIGN_OR_RETURN(const v1::WeightManifest manifest, model::ManifestOf(decoder));
      ROLLCALL_ASSIGN_OR_RETURN(base, model::ManifestHash(manifest));
      // It starts as the base, and takes over adapters.
      if (companions.reference) {
        ROLLCALL_RETURN_IF_ERROR(companions.reference->AddAdapter(*decoder.lora()));
      }
    }
    return std::unique_ptr<Trainer>(new Trainer(config, std::move(objective), preferences,
                                                std::move(decoder), group, clock,
                                                std::move(companions), std::move(base)));
  });
}

Trainer::Trainer(const v1::RunConfig& config, Objective objective,
                 std::optional<PreferenceObjective> preferences, model::Decoder decoder,
                 ProcessGroup* group, Clock* clock, TrainerCompanions companions,
                 std::string base_manifest_hash)
    : config_(config),
      supervised_(config.stage() == v1::STAGE_SFT || config.stage() == v1::STAGE_REWARD_MODEL ||
                  preferences.has_value()),
      objective_(std::move(objective)),
      preferences_(std::move(preferences)),
      // The float32 that every request to a generator carries, not the decimal it was written as:
      // the inverses of the two can round to different floats, and log-probs would differ.
      temperature_(supervised_ ? 1.0 : static_cast<double>(config.sampling().temperature())),
      group_(group),
      clock_(clock),
      decoder_(std::move(decoder)),
      base_manifest_hash_(std::move(base_manifest_hash)),
      optimizer_(decoder_.trainable_parameters(), config.learner().optimizer(), group),
      kl_coefficient_(objective_.kl_coefficient) {
  decoder_.SetRequiresGrad(true);
  if (supervised_) return;
  if (objective_.needs_critic()) {
    critic_ =
        std::make_unique<Critic>(*std::move(companions.critic), config.learner().critic(), group);
  }
  if (objective_.needs_reference() && config.algorithm().reference_refresh_steps() > 0) {
    reference_ = std::move(companions.reference);
  }
}

absl::StatusOr<StepReport> Trainer::TrainStep(TrainBatch batch) {
  OrderBatch(batch);
  ROLLCALL_RETURN_IF_ERROR(CheckBatch(batch, Requirements()));
  totals_ = StepTotals();
  forward_time_ = backward_time_ = optimizer_time_ = critic_time_ = absl::ZeroDuration();
  StepReport report;
  report.step = step_ + 1;
  report.metrics = batch.metrics;
  const double collective_seconds = group_->seconds();
  const uint64_t sent_bytes = group_->sent_bytes();
  const absl::Status trained = tensor::TorchCall([&]() -> absl::Status {
    ROLLCALL_RETURN_IF_ERROR(TrainOrdered(batch, report));
    return totals_.SumOverRanks(*group_);
  });
  if (!trained.ok()) {
    decoder_.ZeroGrad();
    if (critic_ != nullptr) critic_->ZeroGrad();
    return Annotate(trained, absl::StrCat("training step ", report.step));
  }
  ++step_;
  trained_tokens_ += totals_.tokens();
  totals_.Report(report.metrics);
  if (critic_ != nullptr) critic_->Report(report.metrics);
  ReportTimes(report);
  if (group_->size() > 1) {
    report.metrics["time/all_reduce_seconds"] = group_->seconds() - collective_seconds;
    report.metrics["train/sent_bytes"] = static_cast<double>(group_->sent_bytes() - sent_bytes);
  }
  report.skipped_updates = totals_.skipped_updates();
  if (totals_.gap().has_value()) report.gap = totals_.gap()->nats;
  return report;
}

BatchRequirements Trainer::Requirements() const {
  const bool reference = preferences_.has_value()
                             ? preferences_->needs_reference()
                             : objective_.needs_reference() && !reference_.has_value();
  return {.vocab_size = static_cast<uint32_t>(decoder_.config().vocab_size),
          .rollouts = !supervised_,
          .reference_logprobs = reference,
          .twos = preferences_.has_value() || config_.stage() == v1::STAGE_REWARD_MODEL};
}

absl::Status Trainer::TrainOrdered(TrainBatch& batch, StepReport& report) {
  const double lr =
      LearningRateAt(config_.learner().optimizer(), report.step, config_.learner().steps());
  report.metrics["train/lr"] = lr;
  proximal_.clear();
  old_values_.clear();
  const auto own = [&] { return OwnTwos(batch, group_->rank(), group_->size()); };
  if (config_.stage() == v1::STAGE_REWARD_MODEL) return TrainRewardModel(own(), report, lr);
  if (preferences_.has_value()) return TrainPreferences(own(), report, lr);
  if (supervised_) return TrainSupervised(batch, lr);
  if (config_.algorithm().shuffle_rewards()) PermuteRewards(batch, config_.seed(), report.step);
  if (reference_.has_value()) ROLLCALL_RETURN_IF_ERROR(ScoreReference(batch));
  ROLLCALL_RETURN_IF_ERROR(objective_.pairs.has_value() ? TrainPairs(batch, report, lr)
                                                        : TrainPolicy(batch, report, lr));
  RefreshReference(report.step);
  return absl::OkStatus();
}

absl::Status Trainer::TrainSupervised(const TrainBatch& batch, double lr) {
  const BatchAdvantages none;
  return RunMiniBatch(batch, SplitIntoMiniBatches(batch, 1)[0], none, /*first_pass=*/false, lr);
}

absl::Status Trainer::TrainPolicy(TrainBatch& batch, StepReport& report, double lr) {
  const uint32_t epochs = std::max(1u, config_.algorithm().epochs_per_batch());
  if (critic_ != nullptr) {
    ROLLCALL_ASSIGN_OR_RETURN(old_values_,
                              critic_->Values(batch, config_.learner().micro_batch_tokens()));
  }
  ROLLCALL_ASSIGN_OR_RETURN(
      const BatchAdvantages advantages,
      ComputeBatchAdvantages(objective_, batch, critic_ != nullptr ? &old_values_ : nullptr,
                             kl_coefficient_, report.metrics));
  if (objective_.mask_truncated) report.metrics["train/masked_sequences"] = MaskTruncated(batch);
  // While a critic warms up the policy stays as it is.
  const bool trains_policy =
      critic_ == nullptr || report.step > config_.learner().critic().warmup_steps();
  if (trains_policy && objective_.corrects_behavior()) {
    ROLLCALL_ASSIGN_OR_RETURN(proximal_, LogprobsUnder(decoder_, batch));
  }
  const auto parts = SplitIntoMiniBatches(batch, config_.algorithm().mini_batches());
  // Log-probs can be compared with the rollout's until the first update.
  bool first_pass = true;
  for (uint32_t epoch = 0; epoch < epochs; ++epoch) {
    for (const std::vector<size_t>& indices : parts) {
      if (trains_policy) {
        ROLLCALL_RETURN_IF_ERROR(RunMiniBatch(batch, indices, advantages, first_pass, lr));
        first_pass = first_pass && indices.empty();
      }
      if (critic_ != nullptr) {
        ROLLCALL_RETURN_IF_ERROR(RunCritic(batch, indices, advantages, report.step));
      }
    }
  }
  if (objective_.kl_target > 0) {
    kl_coefficient_ =
        AdaptedKlCoefficient(kl_coefficient_, advantages.kl_of_sequences, objective_.kl_target,
                             objective_.kl_horizon, advantages.scored_sequences);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::vector<float>>> Trainer::LogprobsUnder(model::Decoder& decoder,
                                                                       const TrainBatch& batch) {
  const at::NoGradGuard no_grad;
  const std::vector<size_t> places = Own(batch, SplitIntoMiniBatches(batch, 1)[0]);
  std::vector<size_t> lengths;
  for (const size_t place : places) lengths.push_back(batch.sequences[place].token_ids.size());
  std::vector<std::vector<float>> logprobs(batch.sequences.size());
  for (std::vector<size_t>& micro_batch :
       PackByTokens(lengths, config_.learner().micro_batch_tokens())) {
    for (size_t& place : micro_batch) place = places[place];
    const PackedBatch packed = Pack(batch, micro_batch);
    ROLLCALL_ASSIGN_OR_RETURN(const model::TokenScores scores,
                              Score(decoder, packed, model::EntropyMode::kNone));
    const at::Tensor host = scores.logprob.to(at::kCPU).contiguous();
    for (size_t i = 0; i < packed.sequence_of.size(); ++i) {
      logprobs[packed.sequences[packed.sequence_of[i]]].push_back(host.const_data_ptr<float>()[i]);
    }
  }
  ROLLCALL_RETURN_IF_ERROR(ShareColumns(*group_, logprobs));
  return logprobs;
}

absl::Status Trainer::ScoreReference(TrainBatch& batch) {
  ROLLCALL_ASSIGN_OR_RETURN(const auto logprobs, LogprobsUnder(*reference_, batch));
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    TrainSequence& sequence = batch.sequences[i];
    sequence.reference_logprobs.assign(sequence.token_ids.size(), 0.0f);
    size_t next = 0;
    // A sequence that is left out of the loss was not scored.
    for (size_t t = 0; t < sequence.loss_mask.size() && next < logprobs[i].size(); ++t) {
      if (sequence.loss_mask[t] != 0) sequence.reference_logprobs[t] = logprobs[i][next++];
    }
  }
  return absl::OkStatus();
}

void Trainer::RefreshReference(uint64_t step) {
  if (!reference_.has_value() || step % config_.algorithm().reference_refresh_steps() != 0) return;
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < decoder_.trainable_parameters().size(); ++i) {
    reference_->trainable_parameters()[i].tensor.copy_(decoder_.trainable_parameters()[i].tensor);
  }
  reference_->InvalidatePacked();
}

std::vector<size_t> Trainer::Own(const TrainBatch& batch, std::span<const size_t> places) const {
  return OwnSequences(batch, places, group_->rank(), group_->size());
}

absl::Status Trainer::RunCritic(const TrainBatch& batch, const std::vector<size_t>& of_all,
                                const BatchAdvantages& advantages, uint64_t step) {
  const std::vector<size_t> indices = Own(batch, of_all);
  ROLLCALL_ASSIGN_OR_RETURN(const LossDenominators denominators,
                            GlobalDenominators(batch, indices));
  if (denominators.tokens == 0) return absl::OkStatus();
  const absl::Time start = clock_->Now();
  std::vector<size_t> lengths;
  for (const size_t index : indices) lengths.push_back(batch.sequences[index].token_ids.size());
  for (std::vector<size_t>& micro_batch :
       PackByTokens(lengths, config_.learner().micro_batch_tokens())) {
    for (size_t& place : micro_batch) place = indices[place];
    const PackedBatch packed = Pack(batch, micro_batch);
    ROLLCALL_RETURN_IF_ERROR(critic_->Accumulate(
        packed, old_values_, advantages.returns,
        TokenWeights(objective_.aggregation, packed.token_counts, denominators)));
  }
  ROLLCALL_ASSIGN_OR_RETURN(const ModelUpdate update,
                            critic_->Update(step, config_.learner().steps()));
  critic_time_ += clock_->Now() - start;
  return NoteUpdate("critic", update);
}

absl::StatusOr<LossDenominators> Trainer::GlobalDenominators(const TrainBatch& batch,
                                                             const std::vector<size_t>& indices) {
  std::vector<int64_t> token_counts;
  for (const size_t index : indices) {
    const std::vector<uint8_t>& mask = batch.sequences[index].loss_mask;
    token_counts.push_back(
        std::count_if(mask.begin(), mask.end(), [](uint8_t m) { return m != 0; }));
  }
  const LossDenominators own = CountDenominators(token_counts);
  // Exact in float64 up to 2^53.
  at::Tensor counts = at::tensor(
      std::vector<double>{static_cast<double>(own.sequences), static_cast<double>(own.tokens)});
  ROLLCALL_RETURN_IF_ERROR(group_->AllReduceSum(counts));
  const double* summed = counts.const_data_ptr<double>();
  return LossDenominators{.sequences = static_cast<int64_t>(summed[0]),
                          .tokens = static_cast<int64_t>(summed[1]),
                          .constant_length = objective_.max_completion_tokens};
}

absl::Status Trainer::RunMiniBatch(const TrainBatch& batch, const std::vector<size_t>& of_all,
                                   const BatchAdvantages& advantages, bool first_pass, double lr) {
  const std::vector<size_t> indices = Own(batch, of_all);
  ROLLCALL_ASSIGN_OR_RETURN(const LossDenominators denominators,
                            GlobalDenominators(batch, indices));
  // Nothing to learn from, such as a mini-batch of empty completions: no update, as its gradient
  // would be 0 / 0.
  if (denominators.tokens == 0) return absl::OkStatus();
  std::vector<size_t> lengths;
  for (const size_t index : indices) lengths.push_back(batch.sequences[index].token_ids.size());
  const double loss_before = totals_.loss();
  for (std::vector<size_t>& micro_batch :
       PackByTokens(lengths, config_.learner().micro_batch_tokens())) {
    for (size_t& place : micro_batch) place = indices[place];
    ROLLCALL_RETURN_IF_ERROR(
        RunMicroBatch(batch, Pack(batch, micro_batch), advantages, first_pass, denominators));
  }
  if (first_pass) ROLLCALL_RETURN_IF_ERROR(JudgeGap());
  return Update(totals_.loss() - loss_before, lr);
}

absl::Status Trainer::RunMicroBatch(const TrainBatch& batch, const PackedBatch& packed,
                                    const BatchAdvantages& advantages, bool first_pass,
                                    const LossDenominators& denominators) {
  const at::AutoGradMode grad_mode(true);
  const absl::Time start = clock_->Now();
  ROLLCALL_ASSIGN_OR_RETURN(
      const model::TokenScores scores,
      Score(decoder_, packed,
            objective_.entropy_coefficient > 0 ? model::EntropyMode::kDifferentiable
                                               : model::EntropyMode::kDetached));
  const at::Device device = decoder_.device();
  const TokenLoss loss = LossOf(packed, advantages, scores);
  const std::vector<float> weights =
      TokenWeights(supervised_ ? v1::LOSS_AGGREGATION_TOKEN_MEAN : objective_.aggregation,
                   packed.token_counts, denominators);
  const at::Tensor weighted = loss.total.mul(ToTensor(weights, device)).sum();
  totals_.AddMicroBatch(packed, loss, scores.entropy, weights);
  if (first_pass) totals_.MeasureGap(batch, packed, scores.logprob);
  totals_.MeasureDivergence(packed, scores.logprob);
  const absl::Time half = clock_->Now();
  weighted.backward();
  forward_time_ += half - start;
  backward_time_ += clock_->Now() - half;
  return absl::OkStatus();
}

absl::StatusOr<model::TokenScores> Trainer::Score(model::Decoder& decoder,
                                                  const PackedBatch& packed,
                                                  model::EntropyMode entropy) {
  if (on_forward_) on_forward_();
  ROLLCALL_ASSIGN_OR_RETURN(model::PackedAttention attention,
                            model::PackedAttention::Create(packed.cu_seqlens));
  const at::Device device = decoder.device();
  const at::Tensor hidden = decoder.Forward(ToTensor(packed.token_ids, device),
                                            ToTensor(packed.positions, device), attention);
  return model::ScoreTokens(decoder, hidden.index_select(0, ToTensor(packed.rows, device)),
                            ToTensor(packed.targets, device), temperature_, entropy);
}

TokenLoss Trainer::LossOf(const PackedBatch& packed, const BatchAdvantages& advantages,
                          const model::TokenScores& scores) const {
  if (supervised_) return SupervisedLoss(scores.logprob);
  const at::Device device = decoder_.device();
  const at::Tensor behavior = ToTensor(packed.behavior_logprobs, device);
  TokenInputs inputs{
      .logprobs = scores.logprob,
      .old_logprobs = behavior,
      .reference_logprobs = {},
      .advantages = ToTensor(OfTokens(packed, advantages.of_tokens), device),
      .behavior_logprobs = behavior,
      .entropy = scores.entropy,
      .sequence_of = ToTensor(
          std::vector<int64_t>(packed.sequence_of.begin(), packed.sequence_of.end()), device),
      .sequences = static_cast<int64_t>(packed.sequences.size())};
  if (objective_.corrects_behavior()) {
    inputs.old_logprobs = ToTensor(OfTokens(packed, proximal_), device);
  }
  if (objective_.kl_in_loss()) {
    inputs.reference_logprobs = ToTensor(packed.reference_logprobs, device);
  }
  return ObjectiveLoss(objective_, inputs);
}

absl::Status Trainer::JudgeGap() {
  ROLLCALL_RETURN_IF_ERROR(totals_.ShareGap(*group_));
  const std::optional<LogprobGap>& gap = totals_.gap();
  if (!gap.has_value() || gap->nats <= WrittenNumber(config_.learner().max_gap()) ||
      config_.learner().on_gap() == v1::GAP_ACTION_IGNORE ||
      config_.numerics() == v1::NUMERICS_FAST) {
    return absl::OkStatus();
  }
  const std::string message =
      absl::StrCat("the learner's log-prob of an on-policy token is ", gap->nats,
                   " nats from the rollout's (group ", gap->group_id, " sample ", gap->sample_index,
                   " position ", gap->position, ": rollout ", gap->rollout_logprob, ", learner ",
                   gap->learner_logprob, "); learner.max_gap is ", config_.learner().max_gap());
  if (config_.learner().on_gap() == v1::GAP_ACTION_WARN) {
    LogWarning(message);
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat(message,
                   ". Generator and learner do not run the same numerics, or the batch is "
                   "not on-policy; learner.on_gap: warn goes on"));
}

absl::Status Trainer::Update(double loss, double lr) {
  const absl::Time start = clock_->Now();
  ROLLCALL_ASSIGN_OR_RETURN(
      const ModelUpdate update,
      UpdateModel(decoder_, optimizer_, loss, lr,
                  WrittenNumber(config_.learner().optimizer().max_grad_norm())));
  optimizer_time_ += clock_->Now() - start;
  if (update.taken) totals_.AddUpdate(update.grad_norm);
  return NoteUpdate("policy", update);
}

absl::Status Trainer::NoteUpdate(const char* model, const ModelUpdate& update) {
  if (update.taken) {
    consecutive_skipped_ = 0;
    return absl::OkStatus();
  }
  totals_.AddSkippedUpdate();
  ++skipped_;
  ++consecutive_skipped_;
  LogWarning("an update is skipped: its loss or gradient is not finite",
             {{"model", model},
              {"step", step_ + 1},
              {"loss", update.loss},
              {"grad_norm", update.grad_norm},
              {"in_a_row", consecutive_skipped_}});
  const uint32_t bound = config_.learner().max_consecutive_skipped_steps();
  if (bound == 0 || consecutive_skipped_ < bound) return absl::OkStatus();
  return absl::AbortedError(
      absl::StrCat(consecutive_skipped_,
                   " updates in a row were skipped for a loss or gradient that is not "
                   "finite (the last: ",
                   model, ", loss ", update.loss, ", gradient norm ", update.grad_norm,
                   "); learner.max_consecutive_skipped_steps is ", bound));
}

void Trainer::ReportTimes(StepReport& report) const {
  report.metrics["time/forward_seconds"] = absl::ToDoubleSeconds(forward_time_);
  report.metrics["time/backward_seconds"] = absl::ToDoubleSeconds(backward_time_);
  report.metrics["time/optimizer_seconds"] = absl::ToDoubleSeconds(optimizer_time_);
  if (critic_ != nullptr) {
    report.metrics["time/critic_seconds"] = absl::ToDoubleSeconds(critic_time_);
  }
  const double seconds =
      absl::ToDoubleSeconds(forward_time_ + backward_time_ + optimizer_time_ + critic_time_);
  report.metrics["train/tokens_per_second"] =
      seconds > 0 ? static_cast<double>(totals_.tokens()) / seconds : 0.0;
}

}  // namespace rollcall::learner
