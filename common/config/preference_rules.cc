#include "common/config/preference_rules.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/config/algorithm_presets.h"
#include "common/config/field_rules.h"

namespace rollcall::config {
namespace {

constexpr float kBeta = 0.1F, kSimpoBeta = 2;

std::string StageName(v1::Stage stage) {
  return absl::AsciiStrToLower(absl::StripPrefix(v1::Stage_Name(stage), "STAGE_"));
}

std::string LossName(v1::PreferenceLoss loss) {
  return absl::AsciiStrToLower(
      absl::StripPrefix(v1::PreferenceLoss_Name(loss), "PREFERENCE_LOSS_"));
}

bool IsInside(const std::string& path, const std::string& folder) {
  const std::filesystem::path relative =
      std::filesystem::absolute(path).lexically_normal().lexically_relative(folder);
  return !relative.empty() && *relative.begin() != "..";
}

class Rules {
 public:
  explicit Rules(const v1::RunConfig& config)
      : config_(config),
        stage_(config.stage()),
        preference_(config.preference()),
        plain_(preference_.loss() == v1::PREFERENCE_LOSS_UNSPECIFIED ||
               preference_.loss() == v1::PREFERENCE_LOSS_SIGMOID) {}

  std::vector<Violation> Check() {
    CheckCells();
    CheckColumns();
    CheckLearner();
    if (LearnsFromPreferences(stage_)) CheckLoss();
    if (stage_ == v1::STAGE_DPO || stage_ == v1::STAGE_KTO) CheckReference();
    return std::move(found_);
  }

 private:
  template <typename... Parts>
  void Add(std::string field, const Parts&... parts) {
    found_.push_back({std::move(field), absl::StrCat(parts...)});
  }

  // Whether the cell holds anything but what the schema fills in.
  bool Given(const google::protobuf::FieldDescriptor& field) const {
    if (field.has_presence()) return preference_.GetReflection()->HasField(preference_, &field);
    const std::string value = FormatScalar(preference_, field, -1, /*quote_text=*/false);
    return value != RulesOf(field).default_value() &&
           value != FormatScalar(v1::PreferenceSection::default_instance(), field, -1, false);
  }

  bool Uses(std::string_view cell) const {
    const bool dpo = stage_ == v1::STAGE_DPO, simpo = stage_ == v1::STAGE_SIMPO;
    const bool kto = stage_ == v1::STAGE_KTO;
    if (cell == "loss") return dpo || kto;
    if (cell == "beta") return LearnsFromPreferences(stage_);
    if (cell == "label_smoothing") {
      return simpo || (dpo && (plain_ || preference_.loss() == v1::PREFERENCE_LOSS_ROBUST));
    }
    if (cell == "mean_log_prob") {
      return simpo || (dpo && preference_.loss() == v1::PREFERENCE_LOSS_IPO);
    }
    if (cell == "target_margin") return simpo;
    if (cell == "sft_weight") return dpo || simpo;
    if (cell == "desirable_weight" || cell == "undesirable_weight") return kto;
    if (cell == "reference_cache") return dpo || kto;
    return true;
  }

  void CheckCells() {
    if (stage_ == v1::STAGE_RLAIF) return;  // hands the section to the stage of its chain
    const auto* descriptor = v1::PreferenceSection::descriptor();
    for (int i = 0; i < descriptor->field_count(); ++i) {
      const auto& field = *descriptor->field(i);
      if (!Given(field) || Uses(field.name())) continue;
      const std::string name = absl::StrCat("preference.", field.name());
      if (field.name() == "loss") {
        Add(name, "stage ", StageName(stage_), " has no choice of losses, got ",
            LossName(preference_.loss()));
      } else if (LearnsFromPreferences(stage_) && !plain_) {
        Add(name, "stage ", StageName(stage_), " with loss ", LossName(preference_.loss()),
            " does not use it");
      } else {
        Add(name, "stage ", StageName(stage_), " does not use it");
      }
    }
  }

  void CheckLoss() {
    if (stage_ == v1::STAGE_KTO && !plain_ && preference_.loss() != v1::PREFERENCE_LOSS_APO_ZERO) {
      Add("preference.loss", "kto takes sigmoid (KTO itself) or apo_zero (without the KL), got ",
          LossName(preference_.loss()));
    }
    if (preference_.loss() == v1::PREFERENCE_LOSS_ROBUST && preference_.label_smoothing() == 0) {
      Add("preference.label_smoothing",
          "robust removes the bias of wrong labels and needs how probable they are: must be > 0");
    }
    if (stage_ == v1::STAGE_KTO && preference_.desirable_weight() == 0 &&
        preference_.undesirable_weight() == 0) {
      Add("preference.desirable_weight", "both weights are 0: there is nothing to learn");
    }
  }

  void CheckColumns() {
    const v1::DataSection& data = config_.data();
    const bool rewards = stage_ == v1::STAGE_REWARD_MODEL;
    if (!data.margin_column().empty() && !rewards) {
      Add("data.margin_column", "is of stage reward_model; stage ", StageName(stage_),
          " does not use it");
    }
    if (!data.preference_column().empty() && !rewards && stage_ != v1::STAGE_DPO) {
      Add("data.preference_column", "is of stages dpo and reward_model; stage ", StageName(stage_),
          " does not use it");
    }
    if (!data.preference_column().empty() && !data.margin_column().empty()) {
      Add("data.margin_column",
          "excludes data.preference_column: a completion that is to win by a margin is the better "
          "one for certain");
    }
  }

  void CheckLearner() {
    const v1::LearnerSection& learner = config_.learner();
    if (learner.reward_centering() > 0 && stage_ != v1::STAGE_REWARD_MODEL &&
        stage_ != v1::STAGE_RLAIF) {
      Add("learner.reward_centering", "is of stage reward_model; stage ", StageName(stage_),
          " does not use it");
    }
    if (stage_ == v1::STAGE_KTO && learner.prompts_per_step() < 2) {
      Add("learner.prompts_per_step",
          "kto pairs each prompt with another one's completion: must be >= 2, got ",
          learner.prompts_per_step());
    }
    if ((stage_ == v1::STAGE_SIMPO || stage_ == v1::STAGE_ORPO) &&
        !config_.reference().model_path().empty()) {
      Add("reference.model_path", "stage ", StageName(stage_), " has no reference");
    }
  }

  // The reference must not be what is trained: its log-probs would follow the policy's, and every
  // margin would stay 0.
  void CheckReference() {
    const v1::ReferenceSection& reference = config_.reference();
    for (int i = 0; i < reference.addresses_size(); ++i) {
      const std::string field = absl::StrCat("reference.addresses[", i, "]");
      const std::string& address = reference.addresses(i);
      if (address == config_.learner().listen()) {
        Add(field, "is the learner's own address (learner.listen), where the policy is trained: ",
            "the reference is a rollcall-reference process with weights that stay");
      }
      const auto& generators = config_.generator().addresses();
      if (address == config_.generator().listen() ||
          std::find(generators.begin(), generators.end(), address) != generators.end()) {
        Add(field, "is a generator's address, whose weights follow the policy: ",
            "the reference is a rollcall-reference process with weights that stay");
      }
    }
    if (!reference.model_path().empty() && IsInside(reference.model_path(), RunFolder(config_))) {
      Add("reference.model_path", "lies in the folder that this run writes (", RunFolder(config_),
          "): the reference would be the policy that is trained; take the model it starts from, or "
          "leave it empty");
    }
  }

  const v1::RunConfig& config_;
  const v1::Stage stage_;
  const v1::PreferenceSection& preference_;
  const bool plain_;
  std::vector<Violation> found_;
};

}  // namespace

bool LearnsFromPreferences(v1::Stage stage) {
  return stage == v1::STAGE_DPO || stage == v1::STAGE_SIMPO || stage == v1::STAGE_ORPO ||
         stage == v1::STAGE_KTO;
}

bool ReadsPairs(v1::Stage stage) {
  return stage == v1::STAGE_REWARD_MODEL ||
         (LearnsFromPreferences(stage) && stage != v1::STAGE_KTO);
}

float PreferenceBeta(const v1::RunConfig& config) {
  if (config.preference().has_beta()) return config.preference().beta();
  return config.stage() == v1::STAGE_SIMPO ? kSimpoBeta : kBeta;
}

void FillPreferenceCells(bool mean_log_prob_written, v1::RunConfig* config) {
  if (!LearnsFromPreferences(config->stage())) return;
  v1::PreferenceSection& preference = *config->mutable_preference();
  preference.set_beta(PreferenceBeta(*config));
  if (config->stage() == v1::STAGE_SIMPO && !mean_log_prob_written) {
    preference.set_mean_log_prob(true);
  }
}

std::vector<Violation> FindPreferenceViolations(const v1::RunConfig& config) {
  return Rules(config).Check();
}

}  // namespace rollcall::config
