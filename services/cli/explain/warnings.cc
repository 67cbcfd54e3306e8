#include "services/cli/explain/warnings.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/config/algorithm_presets.h"
#include "common/config/preference_rules.h"
#include "common/config/run_config.h"
#include "services/cli/explain/batch_arithmetic.h"

namespace rollcall::explain {
namespace {

// GSPO's own clip is 3e-4 to 4e-4; the ratio of a sequence's mean stays within hundredths of 1.
constexpr float kWideSequenceClip = 0.05F;
// CISPO's cap is 5 (clip_high 4) in its paper, TRL's default 5; with PPO's 1.2 half of what makes
// it CISPO is gone.
constexpr float kTightCispoCap = 0.5F;
// A reward at the end that is worth less than this share of itself at the start is not seen there.
constexpr double kLeastDiscount = 0.1;

// SimPO's beta is 2 to 2.5 in its paper, up to 10 in its later recipes.
constexpr float kLeastSimpoBeta = 1;
// DPO, KTO and IPO with sums: betas that are in use.
constexpr float kLeastBeta = 0.01F, kLargestBeta = 0.5F, kUsualBeta = 0.1F;
// Published runs take 5e-7 (Zephyr) to 5e-6 (KTO); ten times that already unlearns.
constexpr float kLargestPreferenceLr = 2e-5F;
constexpr uint32_t kLeastKtoBatch = 8;
// Nats: a token's log-ratio rarely leaves ±2, and a completion's moves by units.
constexpr float kLargestTokenMargin = 2, kLeastSumMargin = 1;

class Finder {
 public:
  Finder(const v1::RunConfig& config, const ModelFacts& model)
      : config_(config), algorithm_(config.algorithm()), model_(model) {}

  std::vector<Warning> Find() {
    if (config_.stage() == v1::STAGE_RL) {
      CheckClip();
      CheckKl();
      CheckAdvantage();
      CheckRounds();
      CheckRollout();
      CheckCache();
    }
    if (config::LearnsFromPreferences(config_.stage())) CheckPreferences();
    CheckEvaluation();
    CheckLengths();
    return std::move(found_);
  }

 private:
  template <typename... Parts>
  void Add(const std::string& id, const std::string& field, const Parts&... parts) {
    found_.push_back({id, field, absl::StrCat(parts...)});
  }

  void CheckClip() {
    if (config::TakesPairs(algorithm_)) return;
    const float widest = std::max(algorithm_.clip_low(), algorithm_.clip_high());
    if (algorithm_.policy_loss() == v1::POLICY_LOSS_TYPE_PPO_CLIP &&
        (algorithm_.ratio_level() == v1::RATIO_LEVEL_SEQUENCE_MEAN ||
         algorithm_.ratio_level() == v1::RATIO_LEVEL_SEQUENCE_MEAN_TOKEN) &&
        widest >= kWideSequenceClip) {
      Add("gspo_clip", "algorithm.clip_high", "a clip of ", algorithm_.clip_low(), " / ",
          algorithm_.clip_high(),
          " never binds on the ratio of a sequence's mean, which moves by thousandths; GSPO takes "
          "3e-4 / 4e-4");
    }
    if (algorithm_.policy_loss() != v1::POLICY_LOSS_TYPE_CISPO) return;
    if (algorithm_.clip_high() <= kTightCispoCap) {
      Add("cispo_clip", "algorithm.clip_high", "caps every token's weight at ",
          1 + algorithm_.clip_high(), ", PPO's bound; CISPO caps at 5 (clip_high 4)");
    }
    if (algorithm_.clip_low() < 1) {
      Add("cispo_low", "algorithm.clip_low",
          "lifts the weight of tokens that became unlikely to at least ", 1 - algorithm_.clip_low(),
          "; CISPO has no lower bound (clip_low 1)");
    }
  }

  void CheckKl() {
    const bool in_loss = algorithm_.kl_coefficient() > 0 &&
                         algorithm_.kl_placement() != v1::KL_PLACEMENT_REWARD &&
                         !algorithm_.kl_straight_through();
    if (in_loss && algorithm_.kl_estimator() == v1::KL_ESTIMATOR_K1) {
      Add("k1_loss", "algorithm.kl_estimator",
          "as a loss k1 has an expected gradient of zero: it regularises nothing and adds noise; "
          "take k2 or k3, kl_straight_through, or kl_placement reward");
    }
    if (in_loss && algorithm_.kl_estimator() == v1::KL_ESTIMATOR_ABS) {
      Add("abs_loss", "algorithm.kl_estimator",
          "as a loss abs pulls every token equally hard, however far it is from the reference; "
          "take k2 or k3");
    }
  }

  void CheckAdvantage() {
    const bool by_group =
        algorithm_.advantage_normalization() == v1::ADVANTAGE_NORMALIZATION_GROUP_STD;
    const bool group_mean = algorithm_.advantage_baseline() == v1::ADVANTAGE_BASELINE_GROUP_MEAN;
    if (group_mean && by_group && algorithm_.samples_per_prompt() == 2) {
      Add("two_samples", "algorithm.samples_per_prompt",
          "with two samples the divided advantage is always 0.71 or −0.71, however small the "
          "difference of their rewards; take 4 or more, or advantage_normalization none");
    }
    const double last = std::pow(algorithm_.gamma(), config_.sampling().max_tokens());
    const bool discounts = algorithm_.advantage_baseline() == v1::ADVANTAGE_BASELINE_NONE ||
                           algorithm_.advantage_baseline() == v1::ADVANTAGE_BASELINE_CRITIC;
    // A teacher's judgement comes at each token; only a score comes at the end.
    if (discounts && last < kLeastDiscount && HasReward()) {
      Add("discount", "algorithm.gamma", "the first of ", config_.sampling().max_tokens(),
          " tokens sees ", last, " of the reward at the end; language models take gamma 1");
    }
    if (algorithm_.shuffle_rewards()) {
      Add("shuffled_rewards", "algorithm.shuffle_rewards",
          "rewards are permuted: a control experiment, which must not learn");
    }
  }

  bool HasReward() const {
    const auto& verifiers = config_.reward().verifiers();
    return std::any_of(verifiers.begin(), verifiers.end(), [](const v1::VerifierConfig& verifier) {
      return verifier.weight() != 0 || verifier.has_gate();
    });
  }

  void CheckRounds() {
    if (algorithm_.preset() != v1::ALGORITHM_PRESET_ITERATIVE_DPO) return;
    if (algorithm_.reference_refresh_steps() == 0) {
      Add("frozen_rounds", "algorithm.reference_refresh_steps",
          "the reference stays the first policy: this is online_dpo; iterative_dpo moves it after "
          "each round (1)");
    }
    if (algorithm_.mini_batches() * algorithm_.epochs_per_batch() < 2) {
      Add("short_rounds", "algorithm.mini_batches",
          "one update a round starts where policy and reference are equal, and every pair's margin "
          "is 0: beta then only scales the gradient; take more mini-batches or epochs");
    }
  }

  void CheckRollout() {
    const std::string uncorrected = config::UncorrectedSampling(config_.sampling());
    if (!uncorrected.empty()) {
      Add("uncorrected_sampling", uncorrected,
          "rollouts come from another distribution than the one that ratios and KL are taken "
          "between, and nothing corrects for it");
    }
    if (config_.learner().max_staleness() > 0 &&
        algorithm_.behavior_correction() <= v1::BEHAVIOR_CORRECTION_NONE) {
      Add("stale_uncorrected", "algorithm.behavior_correction", "rollouts may be ",
          config_.learner().max_staleness(),
          " versions old and their ratio to the policy is only clipped; token_truncate or "
          "sequence_mask weighs them");
    }
    if (config_.learner().on_gap() == v1::GAP_ACTION_IGNORE &&
        config_.numerics() != v1::NUMERICS_FAST) {
      Add("gap_ignored", "learner.on_gap",
          "a difference between rollout and training log-probs, which exact numerics rule out, "
          "would go unseen; take warn");
    }
  }

  void CheckPreferences() {
    const v1::PreferenceSection& preference = config_.preference();
    const float beta = config::PreferenceBeta(config_);
    const bool dpo = config_.stage() == v1::STAGE_DPO, kto = config_.stage() == v1::STAGE_KTO;
    const bool ipo = dpo && preference.loss() == v1::PREFERENCE_LOSS_IPO;
    if (config_.stage() == v1::STAGE_SIMPO && preference.mean_log_prob() &&
        beta < kLeastSimpoBeta) {
      Add("simpo_beta", "preference.beta", beta,
          " scales a mean over tokens, which moves by tenths: ", "the target margin of ",
          preference.target_margin(), " is ", preference.target_margin() / beta,
          " nats a token and is never reached; SimPO takes 2 to 2.5");
    }
    if (ipo) CheckIpo(beta);
    if ((dpo || kto) && !(ipo && preference.mean_log_prob()) &&
        (beta < kLeastBeta || beta > kLargestBeta)) {
      Add("preference_beta", "preference.beta",
          beta < kLeastBeta ? "the policy is hardly held to its reference: likelihoods of chosen "
                              "completions fall "
                              "with those of the rejected; "
                            : "the policy hardly leaves its reference; ",
          "usual are 0.01 to 0.5");
    }
    if ((dpo || kto) && config_.model().lora().r() == 0 && beta <= kUsualBeta &&
        config_.learner().optimizer().lr() > kLargestPreferenceLr) {
      Add("preference_lr", "learner.optimizer.lr", config_.learner().optimizer().lr(),
          " with a beta of ", beta,
          " drives all likelihoods down within tens of steps; full fine-tuning takes 5e-7 to 5e-6");
    }
    if (kto && config_.learner().prompts_per_step() < kLeastKtoBatch) {
      Add("kto_batch", "learner.prompts_per_step", "the KL that kto compares with is a mean of ",
          config_.learner().prompts_per_step(), " mismatched completions; take 16 or more");
    }
  }

  void CheckIpo(float beta) {
    const bool means = config_.preference().mean_log_prob();
    const float target = 1 / (2 * beta);
    if (means && target > kLargestTokenMargin) {
      Add("ipo_normalisation", "preference.mean_log_prob", "asks for a margin of ", target,
          " nats a token (1 / 2 beta), which no policy reaches: beta only scales the push; take "
          "sums, or a beta of 0.25 or more");
    }
    if (!means && target < kLeastSumMargin) {
      Add("ipo_normalisation", "preference.mean_log_prob", "asks for a margin of ", target,
          " nats (1 / 2 beta) over a whole completion, next to nothing; take means, or a beta "
          "below "
          "0.5");
    }
  }

  void CheckCache() {
    const uint64_t bytes = config_.generator().kv_cache_bytes();
    if (model_.kv_bytes_per_token == 0 || bytes == 0) return;
    const uint64_t longest = CountBatch(config_, model_.context).longest_sequence;
    const uint64_t together = bytes / model_.kv_bytes_per_token / std::max<uint64_t>(longest, 1);
    const uint64_t wanted =
        std::min(algorithm_.samples_per_prompt(), config_.generator().max_running_samples());
    if (together < wanted) {
      Add("kv_cache", "generator.kv_cache_bytes", "holds ", together, " sequences of ", longest,
          " tokens at once, less than a group of ", wanted,
          ": samples wait for each other or are computed again");
    }
  }

  void CheckEvaluation() {
    const v1::EvaluationSection& evaluation = config_.evaluation();
    if (config_.stage() == v1::STAGE_SFT || config_.stage() == v1::STAGE_REWARD_MODEL ||
        config::LearnsFromPreferences(config_.stage()) || config_.data().evaluation().empty() ||
        !evaluation.has_temperature() ||
        evaluation.temperature() == config_.sampling().temperature()) {
      return;
    }
    Add("temperature_mismatch", "evaluation.temperature", "held-out figures are those at ",
        evaluation.temperature(), ", training rewards those at ", config_.sampling().temperature(),
        ": they are not to be compared, and what is trained is the latter");
  }

  void CheckLengths() {
    if (config_.stage() == v1::STAGE_EVAL) return;
    if (config_.stage() == v1::STAGE_RL && model_.context > 0 &&
        config_.sampling().max_tokens() >= model_.context) {
      Add("context", "sampling.max_tokens", "no completion can have ",
          config_.sampling().max_tokens(), " tokens in a context of ", model_.context,
          " that holds its prompt, too: long ones count as cut off");
    }
    const uint64_t longest = CountBatch(config_, model_.context).longest_sequence;
    if (config_.stage() == v1::STAGE_RL && longest > config_.learner().micro_batch_tokens()) {
      Add("long_sequence", "learner.micro_batch_tokens", "a sequence may have ", longest,
          " tokens, more than the ", config_.learner().micro_batch_tokens(),
          " of a micro-batch: it goes alone and takes more memory than is planned here");
    }
  }

  const v1::RunConfig& config_;
  const v1::AlgorithmSection& algorithm_;
  const ModelFacts model_;
  std::vector<Warning> found_;
};

}  // namespace

std::vector<Warning> FindWarnings(const v1::RunConfig& config, const ModelFacts& model) {
  return Finder(config, model).Find();
}

}  // namespace rollcall::explain
