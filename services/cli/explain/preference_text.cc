#include "services/cli/explain/preference_text.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "common/config/preference_rules.h"

namespace rollcall::explain {
namespace {

// "0.3·" or nothing for a factor of 1.
std::string Factor(double weight) { return weight == 1 ? "" : absl::StrCat(weight, "·"); }

std::string PairLossText(const v1::PreferenceSection& preference) {
  const std::string b = absl::StrCat(preference.beta());
  const std::string half = absl::StrCat(1 / (2 * preference.beta()));
  const float smoothing = preference.label_smoothing();
  const std::string right = absl::StrCat("−", 1 - smoothing, "·log σ(", b, "·h)");
  const std::string wrong = absl::StrCat(smoothing, "·log σ(−", b, "·h)");
  switch (preference.loss()) {
    case v1::PREFERENCE_LOSS_IPO:
      return absl::StrCat("(h − ", half, ")²");
    case v1::PREFERENCE_LOSS_HINGE:
      return absl::StrCat("max(0, 1 − ", b, "·h)");
    case v1::PREFERENCE_LOSS_ROBUST:
      return absl::StrCat("(", right, " + ", wrong, ") / ", 1 - 2 * smoothing);
    case v1::PREFERENCE_LOSS_APO_ZERO:
      return absl::StrCat("1 − σ(", b, "·c) + σ(", b, "·r)");
    case v1::PREFERENCE_LOSS_APO_DOWN:
      return absl::StrCat("σ(", b, "·c) + 1 − σ(", b, "·h)");
    case v1::PREFERENCE_LOSS_NCA_PAIR:
      return absl::StrCat("−log σ(", b, "·c) − ½·log σ(−", b, "·c) − ½·log σ(−", b, "·r)");
    case v1::PREFERENCE_LOSS_BCO_PAIR:
      return absl::StrCat("−log σ(", b, "·c) − log σ(−", b, "·r)");
    case v1::PREFERENCE_LOSS_SPPO_HARD:
      return absl::StrCat("(c − ", half, ")² + (r + ", half, ")²");
    case v1::PREFERENCE_LOSS_DISCOPOP:
      return absl::StrCat("(1 − m)·(−log σ(", b, "·h)) + m·exp(−", b, "·h), m = σ(", b, "·h/0.05)");
    default:
      return smoothing > 0 ? absl::StrCat(right, " − ", wrong) : absl::StrCat("−log σ(", b, "·h)");
  }
}

std::string LikelihoodText(double weight) {
  return absl::StrCat(Factor(weight), "1/T · Σ −log π(y_t) of the chosen");
}

std::vector<Line> DescribeDpo(const v1::RunConfig& config) {
  const v1::PreferenceSection& preference = config.preference();
  if (preference.loss() == v1::PREFERENCE_LOSS_SFT) {
    return {{"loss",
             absl::StrCat("L = ", LikelihoodText(
                                      preference.sft_weight() > 0 ? preference.sft_weight() : 1))}};
  }
  const bool means =
      preference.loss() == v1::PREFERENCE_LOSS_SIGMOID_NORM || preference.mean_log_prob();
  const std::string loss = PairLossText(preference);
  std::string total = absl::StrCat("L = 1/P · Σ ", loss);
  if (preference.sft_weight() > 0) {
    absl::StrAppend(&total, " + ", LikelihoodText(preference.sft_weight()));
  }
  std::vector<Line> lines = {
      {"loss", total},
      {"margin",
       absl::StrCat("h = c − r, c and r: log π − log π_ref of the chosen and the rejected "
                    "completion, ",
                    means ? "the mean over its tokens" : "summed over its tokens")}};
  if (!config.data().preference_column().empty()) {
    lines.push_back(
        {"soft labels",
         absl::StrCat("p·L(chosen, rejected) + (1 − p)·L(rejected, chosen), p: the column ",
                      config.data().preference_column())});
  }
  lines.push_back({"reference", config.preference().reference_cache().empty()
                                    ? "π_ref is frozen; asked for a batch ahead"
                                    : "π_ref is frozen; asked for once, then read from "
                                      "preference.reference_cache"});
  return lines;
}

std::vector<Line> DescribeSimpo(const v1::PreferenceSection& preference) {
  const std::string mean = preference.mean_log_prob() ? "mean" : "sum";
  std::string x = absl::StrCat(preference.beta(), "·(", mean, " log π of the chosen − ", mean,
                               " log π of the rejected)");
  if (preference.target_margin() > 0) absl::StrAppend(&x, " − ", preference.target_margin());
  const float smoothing = preference.label_smoothing();
  std::string loss = "L = 1/P · Σ −log σ(x)";
  if (smoothing > 0) {
    loss = absl::StrCat("L = 1/P · Σ −", 1 - smoothing, "·log σ(x) − ", smoothing, "·log σ(−x)");
  }
  if (preference.sft_weight() > 0) {
    absl::StrAppend(&loss, " + ", LikelihoodText(preference.sft_weight()));
  }
  return {{"loss", loss},
          {"margin", absl::StrCat("x = ", x, ", over each completion's tokens; no reference")}};
}

std::vector<Line> DescribeKto(const v1::PreferenceSection& preference) {
  const bool baseline = preference.loss() != v1::PREFERENCE_LOSS_APO_ZERO;
  const std::string z = baseline ? "(r − z)" : "r", minus_z = baseline ? "(z − r)" : "(−r)";
  std::vector<Line> lines = {
      {"loss", absl::StrCat("L = 1/S · Σ ", Factor(preference.desirable_weight()), "(1 − σ(",
                            preference.beta(), "·", z, ")) of a desirable completion, ",
                            Factor(preference.undesirable_weight()), "(1 − σ(", preference.beta(),
                            "·", minus_z, ")) of an undesirable one")},
      {"log-ratio", "r = log π − log π_ref, summed over the completion's tokens; π_ref is frozen"}};
  if (baseline) {
    lines.push_back(
        {"KL",
         "z = max(0, mean of the log-ratios of each prompt with another one's completion), "
         "over the batch; no gradient"});
  }
  return lines;
}

}  // namespace

std::vector<Line> DescribePreferences(const v1::RunConfig& config) {
  v1::RunConfig filled = config;
  filled.mutable_preference()->set_beta(config::PreferenceBeta(config));
  const v1::PreferenceSection& preference = filled.preference();
  switch (config.stage()) {
    case v1::STAGE_SIMPO:
      return DescribeSimpo(preference);
    case v1::STAGE_ORPO:
      return {{"loss", absl::StrCat("L = ", LikelihoodText(1), " + ", preference.beta(),
                                    " · 1/P · Σ −log σ(odds)")},
              {"odds",
               "odds = ln(p/(1 − p)) of the chosen − ln(p/(1 − p)) of the rejected, p = "
               "exp(mean log π over the completion's tokens); no reference"}};
    case v1::STAGE_KTO:
      return DescribeKto(preference);
    default:
      return DescribeDpo(filled);
  }
}

std::vector<Line> PreferenceDenominators(const v1::RunConfig& config) {
  if (config.stage() == v1::STAGE_KTO) {
    return {
        {"loss",
         "S: labelled completions of the whole batch, over all micro-batches and ranks, desirable "
         "and undesirable together"}};
  }
  std::vector<Line> lines;
  if (config.preference().loss() != v1::PREFERENCE_LOSS_SFT) {
    lines.push_back({"loss", "P: pairs of the whole batch, over all micro-batches and ranks"});
  }
  if (config.stage() == v1::STAGE_ORPO || config.preference().sft_weight() > 0 ||
      config.preference().loss() == v1::PREFERENCE_LOSS_SFT) {
    lines.push_back(
        {"likelihood",
         "T: tokens of all chosen completions of the whole batch, over all micro-batches "
         "and ranks"});
  }
  return lines;
}

}  // namespace rollcall::explain
