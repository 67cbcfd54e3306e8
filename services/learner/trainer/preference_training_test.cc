// Stages dpo, simpo, orpo and kto through the trainer.
#include <ATen/core/Tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "common/base/philox.h"
#include "common/checkpoint/scratch_folder.h"
#include "services/learner/trainer/checkpoint_store.h"
#include "services/learner/trainer/tiny_runs.h"

namespace rollcall::learner {
namespace {

using testing::CopyParameters;
using ::testing::HasSubstr;
using testing::LogprobsOf;
using testing::NewDecoder;
using testing::NewTrainer;
using testing::TinyModel;
using testing::TinyRun;

const std::vector<v1::Stage>& Stages() {
  static const std::vector<v1::Stage> stages = {v1::STAGE_DPO, v1::STAGE_SIMPO, v1::STAGE_ORPO,
                                                v1::STAGE_KTO};
  return stages;
}

v1::RunConfig PreferenceRun(v1::Stage stage) {
  v1::RunConfig config = TinyRun(stage);
  v1::PreferenceSection& preference = *config.mutable_preference();
  preference.set_beta(stage == v1::STAGE_SIMPO ? 2 : 0.1F);
  preference.set_mean_log_prob(stage == v1::STAGE_SIMPO);
  preference.set_target_margin(0.5F);
  preference.set_desirable_weight(1);
  preference.set_undesirable_weight(1);
  config.mutable_learner()->set_micro_batch_tokens(60);
  return config;
}

// A completion of a random prompt: liked ones go up from 9, others stay below. Reference log-probs
// are those of `reference`.
TrainSequence Completion(PhiloxStream& random, bool liked, model::Decoder& reference) {
  TrainSequence sequence;
  const uint64_t prompt = 2 + random.Below(3), length = 2 + random.Below(5);
  for (uint64_t i = 0; i < prompt + length; ++i) {
    const uint64_t token =
        i < prompt ? 2 + random.Below(14) : (liked ? 9 + random.Below(7) : 2 + random.Below(7));
    sequence.token_ids.push_back(static_cast<uint32_t>(token));
    sequence.loss_mask.push_back(i >= prompt ? 1 : 0);
  }
  sequence.reference_logprobs = LogprobsOf(reference, sequence.token_ids);
  return sequence;
}

// `units` pairs, or labelled completions with their mismatched ones.
TrainBatch Batch(v1::Stage stage, uint64_t seed, size_t units) {
  PhiloxStream random(seed, 11);
  model::Decoder reference = NewDecoder(TinyModel(), 1);
  TrainBatch batch;
  for (size_t i = 0; i < units; ++i) {
    const bool labelled = stage == v1::STAGE_KTO;
    const bool liked = !labelled || i % 2 == 0;
    for (const bool first : {true, false}) {
      TrainSequence sequence = Completion(random, first ? liked : labelled && !liked, reference);
      sequence.group_id = i;
      sequence.sample_index = first ? 0 : 1;
      if (labelled) sequence.preference = liked ? 1 : 0;
      batch.sequences.push_back(std::move(sequence));
    }
  }
  return batch;
}

std::map<std::string, double> StepOn(const v1::RunConfig& config, const TrainBatch& batch) {
  const auto report = NewTrainer(config, NewDecoder(TinyModel(), 1))->TrainStep(batch);
  EXPECT_TRUE(report.ok()) << report.status();
  return report.ok() ? report->metrics : std::map<std::string, double>();
}

double Sigma(double x) { return 1 / (1 + std::exp(-x)); }
double LogSigma(double x) { return -std::log1p(std::exp(-x)); }

TEST(PreferenceTraining, EachStageLearnsWhatIsPreferred) {
  for (const v1::Stage stage : Stages()) {
    SCOPED_TRACE(v1::Stage_Name(stage));
    const auto trainer = NewTrainer(PreferenceRun(stage), NewDecoder(TinyModel(), 1));
    const TrainBatch held_out = Batch(stage, 1000, 32);
    const auto before = trainer->EvaluatePairs(held_out);
    ASSERT_TRUE(before.ok()) << before.status();
    for (uint64_t step = 1; step <= 12; ++step) {
      const auto report = trainer->TrainStep(Batch(stage, step, 12));
      ASSERT_TRUE(report.ok()) << report.status();
    }
    const auto after = trainer->EvaluatePairs(held_out);
    ASSERT_TRUE(after.ok()) << after.status();
    EXPECT_LT(before->at("eval/accuracy"), 0.7);
    EXPECT_GT(after->at("eval/accuracy"), 0.95);
    EXPECT_GT(after->at("eval/margin"), before->at("eval/margin") + 0.05);
    EXPECT_LT(after->at("eval/loss"), before->at("eval/loss"));
    EXPECT_EQ(after->at(stage == v1::STAGE_KTO ? "eval/completions" : "eval/pairs"), 32);
  }
}

TEST(PreferenceTraining, APolicyThatIsItsReferenceStartsAtNoMargin) {
  const auto dpo = StepOn(PreferenceRun(v1::STAGE_DPO), Batch(v1::STAGE_DPO, 1, 6));
  EXPECT_EQ(dpo.at("train/margin"), 0);
  EXPECT_EQ(dpo.at("train/accuracy"), 0.5);
  EXPECT_NEAR(dpo.at("train/loss"), std::log(2), 1e-6);
  EXPECT_GT(dpo.at("train/grad_norm"), 0);
  EXPECT_GT(dpo.at("train/entropy"), 0);
  const auto kto = StepOn(PreferenceRun(v1::STAGE_KTO), Batch(v1::STAGE_KTO, 1, 6));
  EXPECT_EQ(kto.at("train/kl"), 0);
  EXPECT_NEAR(kto.at("train/loss"), 0.5, 1e-6);
}

// Without the reference in the loss this fails.
TEST(PreferenceTraining, DpoTakesItsMarginToTheReference) {
  TrainBatch batch = Batch(v1::STAGE_DPO, 2, 1);
  for (float& logprob : batch.sequences[1].reference_logprobs) logprob = 0;
  const auto metrics = StepOn(PreferenceRun(v1::STAGE_DPO), batch);
  // The rejected completion became less likely than the reference has it.
  EXPECT_NEAR(metrics.at("train/rejected_reward"), 0.1 * metrics.at("train/rejected_logprob"),
              1e-5);
  EXPECT_NEAR(metrics.at("train/margin"), -metrics.at("train/rejected_reward"), 1e-6);
  EXPECT_NEAR(metrics.at("train/loss"), -LogSigma(metrics.at("train/margin")), 1e-6);
}

TEST(PreferenceTraining, SimpoLeadsByItsTargetMarginAndTakesMeans) {
  const TrainBatch batch = Batch(v1::STAGE_SIMPO, 3, 1);
  v1::RunConfig config = PreferenceRun(v1::STAGE_SIMPO);
  const auto metrics = StepOn(config, batch);
  const double margin =
      2 * (metrics.at("train/chosen_logprob") - metrics.at("train/rejected_logprob"));
  EXPECT_NEAR(metrics.at("train/loss"), -LogSigma(margin - 0.5), 1e-5);
  EXPECT_NEAR(metrics.at("train/margin"), margin, 1e-5);
  // With sums, no target margin and the likelihood of the chosen: CPO.
  config.mutable_preference()->set_mean_log_prob(false);
  config.mutable_preference()->set_target_margin(0);
  config.mutable_preference()->set_sft_weight(1);
  config.mutable_preference()->set_beta(0.1F);
  const auto cpo = StepOn(config, batch);
  const double sums = 0.1 * (cpo.at("train/chosen_logprob") - cpo.at("train/rejected_logprob"));
  EXPECT_NEAR(cpo.at("train/loss"), -LogSigma(sums) + cpo.at("train/sft_loss"), 1e-5);
}

TEST(PreferenceTraining, OrpoAddsTheOddsRatioToTheLikelihood) {
  const auto metrics = StepOn(PreferenceRun(v1::STAGE_ORPO), Batch(v1::STAGE_ORPO, 4, 1));
  const auto log_odds = [](double x) { return x - std::log1p(-std::exp(x)); };
  const double ratio =
      log_odds(metrics.at("train/chosen_logprob")) - log_odds(metrics.at("train/rejected_logprob"));
  EXPECT_NEAR(metrics.at("train/sft_loss"), -metrics.at("train/chosen_logprob"), 1e-5);
  EXPECT_NEAR(metrics.at("train/loss"), metrics.at("train/sft_loss") - 0.1 * LogSigma(ratio), 1e-5);
}

TEST(PreferenceTraining, KtoComparesWithTheKlOfMismatchedCompletions) {
  TrainBatch batch = Batch(v1::STAGE_KTO, 5, 2);
  for (const size_t mismatched : {1, 3}) {
    for (float& logprob : batch.sequences[mismatched].reference_logprobs) logprob *= 2;
  }
  v1::RunConfig config = PreferenceRun(v1::STAGE_KTO);
  config.mutable_preference()->set_undesirable_weight(1.5F);
  const auto metrics = StepOn(config, batch);
  const double kl = metrics.at("train/kl");
  EXPECT_GT(kl, 1);  // the policy likes them better than this reference does
  EXPECT_NEAR(metrics.at("train/loss"), (1 - Sigma(-0.1 * kl) + 1.5 * (1 - Sigma(0.1 * kl))) / 2,
              1e-5);
  config.mutable_preference()->set_loss(v1::PREFERENCE_LOSS_APO_ZERO);
  EXPECT_NEAR(StepOn(config, batch).at("train/loss"), 1.25 / 2, 1e-6);
}

TEST(PreferenceTraining, ALikelihoodTermIsAMeanOverAllChosenTokens) {
  const TrainBatch batch = Batch(v1::STAGE_DPO, 6, 5);
  v1::RunConfig config = PreferenceRun(v1::STAGE_DPO);
  config.mutable_preference()->set_sft_weight(0.25F);
  const auto metrics = StepOn(config, batch);
  double sum = 0, tokens = 0;
  model::Decoder decoder = NewDecoder(TinyModel(), 1);
  for (size_t i = 0; i < batch.sequences.size(); i += 2) {
    const std::vector<float> logprobs = LogprobsOf(decoder, batch.sequences[i].token_ids);
    for (size_t t = 0; t < logprobs.size(); ++t) {
      if (batch.sequences[i].loss_mask[t] == 0) continue;
      sum -= logprobs[t];
      ++tokens;
    }
  }
  EXPECT_NEAR(metrics.at("train/sft_loss"), sum / tokens, 1e-5);
  EXPECT_NEAR(metrics.at("train/loss"), std::log(2) + 0.25 * sum / tokens, 1e-5);
  EXPECT_NEAR(metrics.at("train/preference_loss"), std::log(2), 1e-6);
}

// What is taught beside the completion, such as its prompt, is no part of what is compared.
TEST(PreferenceTraining, LikelihoodOnlyTokensAreNotCompared) {
  TrainBatch batch = Batch(v1::STAGE_ORPO, 7, 2);
  const auto plain = StepOn(PreferenceRun(v1::STAGE_ORPO), batch);
  TrainSequence& chosen = batch.sequences[0];
  for (size_t t = 0; t < chosen.loss_mask.size(); ++t) {
    chosen.likelihood_only.push_back(chosen.loss_mask[t] == 0 ? 1 : 0);
    chosen.loss_mask[t] = t > 0 ? 1 : 0;
  }
  const auto taught = StepOn(PreferenceRun(v1::STAGE_ORPO), batch);
  EXPECT_NEAR(taught.at("train/preference_loss"), plain.at("train/preference_loss"), 1e-6);
  EXPECT_NE(taught.at("train/sft_loss"), plain.at("train/sft_loss"));
}

TEST(PreferenceTraining, NeitherOrderNorMicroBatchesMatter) {
  for (const v1::Stage stage : Stages()) {
    SCOPED_TRACE(v1::Stage_Name(stage));
    v1::RunConfig config = PreferenceRun(stage);
    config.mutable_preference()->set_sft_weight(stage == v1::STAGE_DPO ? 0.5F : 0);
    config.mutable_learner()->mutable_optimizer()->set_beta1(0);
    TrainBatch batch = Batch(stage, 8, 6);
    // Away from the reference, so that the losses are of many sizes.
    for (TrainSequence& sequence : batch.sequences) {
      for (float& logprob : sequence.reference_logprobs) logprob *= 1.25F;
    }
    const auto train = [&](const TrainBatch& input, uint32_t budget) {
      config.mutable_learner()->set_micro_batch_tokens(budget);
      auto trainer = NewTrainer(config, NewDecoder(TinyModel(), 1));
      const auto report = trainer->TrainStep(input);
      EXPECT_TRUE(report.ok()) << report.status();
      return std::pair(report->metrics, testing::FirstMoments(*trainer));
    };
    TrainBatch reversed;
    for (size_t i = batch.sequences.size(); i > 0; i -= 2) {
      reversed.sequences.push_back(batch.sequences[i - 2]);
      reversed.sequences.push_back(batch.sequences[i - 1]);
    }
    const auto [whole, gradients] = train(batch, 100000);
    for (const auto& [metrics, others] : {train(batch, 1), train(reversed, 40)}) {
      EXPECT_GT(metrics.at("train/micro_batches"), whole.at("train/micro_batches"));
      for (const char* figure : {"train/loss", "train/margin", "train/accuracy",
                                 "train/chosen_logprob", "train/entropy"}) {
        EXPECT_NEAR(metrics.at(figure), whole.at(figure), 2e-6) << figure;
      }
      for (size_t i = 0; i < gradients.size(); ++i) {
        const double norm = gradients[i].norm().item<double>();
        EXPECT_LE(gradients[i].sub(others[i]).norm().item<double>(), 2e-5 * norm + 1e-8);
      }
    }
  }
}

TEST(PreferenceTraining, AResumedRunGoesOnBitForBit) {
  for (const v1::Stage stage : {v1::STAGE_DPO, v1::STAGE_KTO}) {
    const checkpoint::ScratchFolder scratch;
    const v1::RunConfig config = PreferenceRun(stage);
    const auto whole = NewTrainer(config, NewDecoder(TinyModel(), 1));
    CheckpointStore store(scratch.path(), 2);
    for (uint64_t step = 1; step <= 4; ++step) {
      ASSERT_TRUE(whole->TrainStep(Batch(stage, step, 4)).ok());
      if (step != 2) continue;
      ASSERT_TRUE(store.Save({}, *whole).ok());
    }
    const auto resumed = NewTrainer(config, NewDecoder(TinyModel(), 9));
    const auto loaded = store.LoadNewest(*resumed);
    ASSERT_TRUE(loaded.ok() && loaded->has_value()) << loaded.status();
    EXPECT_EQ(resumed->step(), 2u);
    for (uint64_t step = 3; step <= 4; ++step) {
      ASSERT_TRUE(resumed->TrainStep(Batch(stage, step, 4)).ok());
    }
    testing::ExpectSameBits(CopyParameters(*whole), CopyParameters(*resumed));
  }
}

TEST(PreferenceTraining, SoftLabelsWeakenThePull) {
  TrainBatch batch = Batch(v1::STAGE_DPO, 9, 4);
  const double sure = StepOn(PreferenceRun(v1::STAGE_DPO), batch).at("train/grad_norm");
  for (TrainSequence& sequence : batch.sequences) sequence.preference = 0.75;
  const double unsure = StepOn(PreferenceRun(v1::STAGE_DPO), batch).at("train/grad_norm");
  EXPECT_NEAR(unsure, 0.5 * sure, 1e-4 * sure);  // (p - (1 - p)) of it, at a margin of 0
}

TEST(PreferenceTraining, BatchesThatAreNoPreferencesAreRefused) {
  const auto refused = [](v1::Stage stage, const TrainBatch& batch) {
    const auto trainer = NewTrainer(PreferenceRun(stage), NewDecoder(TinyModel(), 1));
    const absl::Status status = trainer->TrainStep(batch).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_EQ(trainer->EvaluatePairs(batch).status(), status);
    EXPECT_EQ(trainer->step(), 0u);
    return std::string(status.message());
  };
  TrainBatch batch = Batch(v1::STAGE_DPO, 10, 2);
  batch.sequences.pop_back();
  EXPECT_THAT(refused(v1::STAGE_DPO, batch), HasSubstr("sequences come in twos, got 3"));
  batch = Batch(v1::STAGE_DPO, 10, 2);
  batch.sequences[2].reference_logprobs.clear();
  EXPECT_THAT(refused(v1::STAGE_DPO, batch), HasSubstr("group 1 sample 0: reference_logprobs"));
  batch = Batch(v1::STAGE_SIMPO, 10, 2);
  std::fill(batch.sequences[3].loss_mask.begin(), batch.sequences[3].loss_mask.end(), 0);
  EXPECT_THAT(refused(v1::STAGE_SIMPO, batch), HasSubstr("group 1 sample 1: has no completion"));
  batch = Batch(v1::STAGE_ORPO, 10, 2);
  batch.sequences[0].likelihood_only = batch.sequences[0].loss_mask;
  EXPECT_THAT(refused(v1::STAGE_ORPO, batch), HasSubstr("group 0 sample 0: has no completion"));
  EXPECT_THAT(refused(v1::STAGE_DPO, TrainBatch()), HasSubstr("has no sequences"));
}

TEST(PreferenceTraining, ABatchOfOneLabelTrainsWithoutAnAccuracy) {
  TrainBatch batch = Batch(v1::STAGE_KTO, 11, 3);
  for (TrainSequence& sequence : batch.sequences) sequence.preference = 0;
  const auto metrics = StepOn(PreferenceRun(v1::STAGE_KTO), batch);
  EXPECT_EQ(metrics.count("train/accuracy"), 0u);
  EXPECT_EQ(metrics.count("train/chosen_reward"), 0u);
  EXPECT_EQ(metrics.at("train/updates"), 1);
}

}  // namespace
}  // namespace rollcall::learner
