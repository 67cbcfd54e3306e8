#include "common/config/algorithm_presets.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace rollcall::config {
namespace {

bool HasTokenRewards(const v1::AlgorithmSection& algorithm) {
  return algorithm.advantage_baseline() == v1::ADVANTAGE_BASELINE_NONE ||
         algorithm.advantage_baseline() == v1::ADVANTAGE_BASELINE_GREEDY ||
         algorithm.advantage_baseline() == v1::ADVANTAGE_BASELINE_CRITIC;
}

bool Distils(const v1::AlgorithmSection& algorithm) {
  return algorithm.preset() == v1::ALGORITHM_PRESET_DISTILLATION;
}

bool ComparesGroup(const v1::AlgorithmSection& algorithm) {
  return TakesPairs(algorithm) || !HasTokenRewards(algorithm);
}

class Rules {
 public:
  explicit Rules(const v1::RunConfig& config)
      : config_(config), algorithm_(config.algorithm()), name_(PresetName(algorithm_.preset())) {}

  std::vector<Violation> Check() {
    CheckGroups();
    CheckSampling();
    CheckPairs();
    CheckTeacher();
    CheckReferences();
    CheckAdvantage();
    CheckPolicyLoss();
    CheckKl();
    CheckLengths();
    return std::move(found_);
  }

 private:
  template <typename... Parts>
  void Add(std::string_view field, const Parts&... parts) {
    found_.push_back({absl::StrCat("algorithm.", std::string(field)), absl::StrCat(parts...)});
  }

  void CheckGroups() {
    if (!ComparesGroup(algorithm_)) return;
    if (algorithm_.samples_per_prompt() < 2) {
      Add("samples_per_prompt", name_, " compares the samples of a group: must be >= 2, got ",
          algorithm_.samples_per_prompt());
    }
    if (algorithm_.min_valid_samples() < 2) {
      Add("min_valid_samples", name_, " compares the samples of a group: must be >= 2, got ",
          algorithm_.min_valid_samples());
    }
  }

  void CheckSampling() {
    const std::string& metric = algorithm_.dynamic_sampling_metric();
    if (algorithm_.dynamic_sampling() && algorithm_.samples_per_prompt() < 2) {
      Add("dynamic_sampling",
          "compares the samples of a group: needs samples_per_prompt >= 2, got ",
          algorithm_.samples_per_prompt());
    }
    if (metric.empty()) return;
    const auto& verifiers = config_.reward().verifiers();
    if (std::none_of(verifiers.begin(), verifiers.end(),
                     [&](const auto& verifier) { return verifier.name() == metric; })) {
      Add("dynamic_sampling_metric", "must name one of reward.verifiers, got \"", metric, "\"");
    }
  }

  void CheckAdvantage() {
    const auto scale = algorithm_.advantage_normalization();
    const auto baseline = algorithm_.advantage_baseline();
    const bool group_mean = baseline == v1::ADVANTAGE_BASELINE_GROUP_MEAN ||
                            baseline == v1::ADVANTAGE_BASELINE_UNSPECIFIED;
    if (scale == v1::ADVANTAGE_NORMALIZATION_GROUP_STD && !group_mean) {
      Add("advantage_normalization",
          "group_std goes with advantage_baseline group_mean; take none, batch_std or whiten");
    }
    if (scale == v1::ADVANTAGE_NORMALIZATION_BATCH_STD && !ComparesGroup(algorithm_)) {
      Add("advantage_normalization",
          "batch_std goes with a baseline over the group; take whiten or none");
    }
    if (algorithm_.gamma() < 1 && ComparesGroup(algorithm_)) {
      Add("gamma",
          "discounts rewards token by token, which only advantage_baseline none, greedy and critic "
          "do; must be 1, got ",
          algorithm_.gamma());
    }
    if (algorithm_.reward_whitening() && ComparesGroup(algorithm_)) {
      Add("reward_whitening",
          "scales the rewards of tokens, which only advantage_baseline none, greedy and critic "
          "have");
    }
    if (algorithm_.gae_lambda() < 1 && baseline != v1::ADVANTAGE_BASELINE_CRITIC) {
      Add("gae_lambda", "goes with advantage_baseline critic; must be 1, got ",
          algorithm_.gae_lambda());
    }
  }

  void CheckPolicyLoss() {
    const bool surrogate = algorithm_.policy_loss() == v1::POLICY_LOSS_TYPE_PPO_CLIP ||
                           algorithm_.policy_loss() == v1::POLICY_LOSS_TYPE_UNSPECIFIED;
    if (algorithm_.dual_clip() > 0 && algorithm_.dual_clip() <= 1) {
      Add("dual_clip", "must be 0 (none) or above 1, got ", algorithm_.dual_clip());
    }
    if (!surrogate && algorithm_.dual_clip() > 0) {
      Add("dual_clip", "bounds the surrogate of policy_loss ppo_clip only");
    }
    if (!surrogate && algorithm_.ratio_cap() > 0) {
      Add("ratio_cap", "bounds the surrogate of policy_loss ppo_clip only");
    }
    if (algorithm_.policy_loss() == v1::POLICY_LOSS_TYPE_REINFORCE &&
        (algorithm_.mini_batches() > 1 || algorithm_.epochs_per_batch() > 1 ||
         config_.learner().max_staleness() > 0)) {
      Add("policy_loss",
          "reinforce has no ratio and is right for on-policy batches only: it needs mini_batches "
          "1, epochs_per_batch 1 and learner.max_staleness 0");
    }
    if (algorithm_.behavior_min() > algorithm_.behavior_max()) {
      Add("behavior_min", "must be at most behavior_max (", algorithm_.behavior_max(), "), got ",
          algorithm_.behavior_min());
    }
  }

  void CheckPairs() {
    if (!TakesPairs(algorithm_)) return;
    const auto refuse = [&](bool given, const char* field) {
      if (given) Add(field, "is no part of ", name_, ", whose loss is that of a pair");
    };
    refuse(algorithm_.kl_coefficient() > 0, "kl_coefficient");
    refuse(HasTokenRewards(algorithm_), "advantage_baseline");
    refuse(algorithm_.entropy_coefficient() > 0, "entropy_coefficient");
    refuse(algorithm_.mask_truncated(), "mask_truncated");
    refuse(algorithm_.behavior_correction() != v1::BEHAVIOR_CORRECTION_NONE &&
               algorithm_.behavior_correction() != v1::BEHAVIOR_CORRECTION_UNSPECIFIED,
           "behavior_correction");
  }

  void CheckTeacher() {
    if (!Distils(algorithm_)) return;
    const v1::ReferenceSection& teacher = config_.reference();
    if (algorithm_.kl_coefficient() == 0) {
      Add("kl_coefficient", "weighs the teacher in distillation: must be > 0, got 0");
    }
    if (algorithm_.reference_refresh_steps() > 0) {
      Add("reference_refresh_steps", "would put the student in its teacher's place: must be 0");
    }
    if (teacher.model_path().empty() && teacher.addresses().empty()) {
      found_.push_back({"reference.model_path",
                        "is needed by distillation: the teacher, a model with the policy's "
                        "tokenizer"});
    }
    if (!teacher.model_path().empty() && teacher.model_path() == config_.model().path()) {
      found_.push_back({"reference.model_path",
                        "is model.path: a student that is its own teacher learns nothing"});
    }
  }

  void CheckReferences() {
    if (algorithm_.reference_refresh_steps() > 0 && !AsksReference(algorithm_)) {
      Add("reference_refresh_steps",
          "needs a reference: kl_coefficient > 0, online_dpo or iterative_dpo");
    }
  }

  void CheckKl() {
    const bool in_reward = algorithm_.kl_placement() == v1::KL_PLACEMENT_REWARD;
    if (algorithm_.kl_target() > 0 && (!in_reward || algorithm_.kl_coefficient() == 0)) {
      Add("kl_target",
          "adapts the coefficient of a KL in the reward: it needs kl_placement reward and "
          "kl_coefficient > 0");
    }
    if (algorithm_.kl_straight_through() && in_reward) {
      Add("kl_straight_through", "concerns a gradient, and a KL in the reward has none");
    }
  }

  void CheckLengths() {
    const uint32_t longest = config_.sampling().max_tokens();
    if (algorithm_.overlong_buffer() > longest) {
      Add("overlong_buffer", "must be at most sampling.max_tokens (", longest, "), got ",
          algorithm_.overlong_buffer());
    }
  }

  const v1::RunConfig& config_;
  const v1::AlgorithmSection& algorithm_;
  const std::string name_;
  std::vector<Violation> found_;
};

// Rows whose advantage is no sequence's against its group's.
std::vector<PresetCell> CellsWithoutGroupBaseline(v1::AlgorithmPreset preset) {
  switch (preset) {
    case v1::ALGORITHM_PRESET_REINFORCE_PP:  // arXiv 2501.03262, section 3
      return {{"advantage_baseline", "none"}, {"advantage_normalization", "whiten"},
              {"aggregation", "token_mean"},  {"kl_placement", "reward"},
              {"kl_estimator", "k1"},         {"kl_coefficient", "0.01"}};
    case v1::ALGORITHM_PRESET_PPO:  // arXiv 2203.02155, section 3.5 and appendix C.4
      return {{"advantage_baseline", "critic"}, {"advantage_normalization", "whiten"},
              {"gae_lambda", "0.95"},           {"aggregation", "token_mean"},
              {"kl_placement", "reward"},       {"kl_estimator", "k1"},
              {"kl_coefficient", "0.05"},       {"epochs_per_batch", "4"}};
    case v1::ALGORITHM_PRESET_REMAX:  // arXiv 2310.10505, algorithm 1
      return {{"advantage_baseline", "greedy"}, {"advantage_normalization", "none"},
              {"policy_loss", "reinforce"},     {"aggregation", "seq_mean_token_sum"},
              {"kl_placement", "reward"},       {"kl_estimator", "k1"},
              {"kl_coefficient", "0.05"}};
    case v1::ALGORITHM_PRESET_ONLINE_DPO:  // arXiv 2402.04792, section 3
      return {{"kl_coefficient", "0"}};
    case v1::ALGORITHM_PRESET_ITERATIVE_DPO:  // arXiv 2404.19733, section 2
      return {{"kl_coefficient", "0"},
              {"reference_refresh_steps", "1"},
              {"mini_batches", "4"},
              {"epochs_per_batch", "2"}};
    case v1::ALGORITHM_PRESET_DISTILLATION:  // arXiv 2306.13649, section 3; 2306.08543, section 2.2
      return {{"advantage_baseline", "none"},
              {"advantage_normalization", "none"},
              {"gamma", "0"},
              {"aggregation", "token_mean"},
              {"kl_placement", "reward"},
              {"kl_estimator", "k1"},
              {"kl_coefficient", "1"}};
    default:  // grpo: arXiv 2402.03300, equations 3 and 4
      return {};
  }
}

}  // namespace

std::vector<PresetCell> PresetCells(v1::AlgorithmPreset preset) {
  switch (preset) {
    case v1::ALGORITHM_PRESET_DR_GRPO:  // arXiv 2503.20783, section 3.2
      return {{"advantage_normalization", "none"},
              {"aggregation", "constant_length"},
              {"kl_coefficient", "0"}};
    case v1::ALGORITHM_PRESET_DAPO:  // arXiv 2503.14476, section 3
      return {{"clip_high", "0.28"},
              {"aggregation", "token_mean"},
              {"kl_coefficient", "0"},
              {"dynamic_sampling", "true"}};
    case v1::ALGORITHM_PRESET_GSPO:  // arXiv 2507.18071, section 5.1
      return {{"ratio_level", "sequence_mean"},
              {"clip_low", "3e-4"},
              {"clip_high", "4e-4"},
              {"kl_coefficient", "0"}};
    case v1::ALGORITHM_PRESET_CISPO:  // arXiv 2506.13585, section 3.1; the cap is 5
      return {{"policy_loss", "cispo"},
              {"clip_low", "1"},
              {"clip_high", "4"},
              {"aggregation", "token_mean"},
              {"kl_coefficient", "0"}};
    case v1::ALGORITHM_PRESET_RLOO:  // arXiv 2402.14740, equation 8
      return {{"advantage_baseline", "leave_one_out"},
              {"advantage_normalization", "none"},
              {"ratio_level", "sequence_sum"},
              {"kl_placement", "reward"},
              {"kl_estimator", "k1"},
              {"kl_coefficient", "0.05"}};
    case v1::ALGORITHM_PRESET_REINFORCE_PP_BASELINE:  // arXiv 2501.03262, section 3.3
      return {{"advantage_normalization", "whiten"},
              {"aggregation", "token_mean"},
              {"kl_estimator", "k2"},
              {"kl_coefficient", "0.01"}};
    case v1::ALGORITHM_PRESET_OPO:  // arXiv 2505.23585, section 3
      return {{"advantage_baseline", "length_weighted"},
              {"advantage_normalization", "none"},
              {"aggregation", "token_mean"},
              {"kl_coefficient", "0"}};
    default:
      return CellsWithoutGroupBaseline(preset);
  }
}

std::string PresetName(v1::AlgorithmPreset preset) {
  if (preset == v1::ALGORITHM_PRESET_UNSPECIFIED) preset = v1::ALGORITHM_PRESET_GRPO;
  const std::string& name = v1::AlgorithmPreset_Name(preset);
  return absl::AsciiStrToLower(absl::StripPrefix(name, "ALGORITHM_PRESET_"));
}

std::vector<PresetCell> RunCells(const v1::RunConfig& config) {
  const v1::AlgorithmSection& algorithm = config.algorithm();
  if (config.stage() != v1::STAGE_RL || config.learner().max_staleness() == 0 ||
      TakesPairs(algorithm)) {
    return {};
  }
  return {{"behavior_correction", "token_truncate"}};
}

bool TakesPairs(const v1::AlgorithmSection& algorithm) {
  return algorithm.preset() == v1::ALGORITHM_PRESET_ONLINE_DPO ||
         algorithm.preset() == v1::ALGORITHM_PRESET_ITERATIVE_DPO;
}

bool NeedsRewardService(const v1::RunConfig& config) {
  return config.stage() != v1::STAGE_RL || !Distils(config.algorithm()) ||
         config.reward().verifiers_size() > 0;
}

bool AsksReference(const v1::AlgorithmSection& algorithm) {
  return algorithm.kl_coefficient() > 0 || TakesPairs(algorithm);
}

bool NeedsReferenceService(const v1::RunConfig& config) {
  if (config.stage() == v1::STAGE_DPO || config.stage() == v1::STAGE_KTO) return true;
  return config.stage() == v1::STAGE_RL && AsksReference(config.algorithm()) &&
         config.algorithm().reference_refresh_steps() == 0;
}

std::vector<Violation> FindAlgorithmViolations(const v1::RunConfig& config) {
  return Rules(config).Check();
}

}  // namespace rollcall::config
