#include "services/cli/verify/sampling_filters.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/checkpoint/parameters.h"
#include "services/cli/verify/comparison.h"
#include "services/generator/sampling/token_sampler.h"

namespace rollcall::verify {
namespace {

using Json = nlohmann::json;

constexpr double kProbabilityTolerance = 1e-5;  // the reference's softmax is float32, ours float64
// A cumulative probability this near to top_p may fall on either side.
constexpr double kTopPMargin = 1e-6;

// All cases with one combination of settings.
struct Group {
  int cases = 0;
  int undecided = 0;  // left out: top_p falls on a boundary
  double probability_error = 0;
  int wrong_sets = 0;
  std::string first_wrong;
};

// "temperature+top_k"; the keys of a JSON object come sorted.
std::string Combination(const Json& settings) {
  std::string keys;
  for (const auto& [key, value] : settings.items())
    absl::StrAppend(&keys, keys.empty() ? "" : "+", key);
  return keys;
}

// Settings that the sampler does not have, "" if it has them all.
std::string Missing(const Json& settings) {
  static const std::set<std::string> kOffered = {
      "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size"};
  for (const auto& [key, value] : settings.items()) {
    if (kOffered.count(key) == 0) return key;
  }
  return "";
}

double MarginOf(const Json& filter_case) {
  const auto margin = filter_case.find("top_p_margin");
  return margin != filter_case.end() && margin->is_number()
             ? margin->get<double>()
             : std::numeric_limits<double>::infinity();
}

absl::Status CompareOne(const Json& filter_case, const GoldenTensors& tensors,
                        generator::TokenSampler& sampler, Group& group) {
  const std::string name = filter_case.at("name").get<std::string>();
  const Json& settings = filter_case.at("settings");
  const generator::SamplingOptions options{
      .temperature = settings.value("temperature", 1.0f),
      .top_k = settings.value("top_k", 0u),
      .top_p = settings.value("top_p", 1.0f),
      .min_p = settings.value("min_p", 0.0f),
      .rules = {.repetition_penalty = settings.value("repetition_penalty", 1.0f),
                .no_repeat_ngram_size = settings.value("no_repeat_ngram_size", 0u)}};
  const std::string input = filter_case.at("logits").get<std::string>();
  ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor logits, Golden(tensors, absl::StrCat("in/", input)));
  ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor history_ids,
                            Golden(tensors, absl::StrCat("history/", input)));
  ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor expected,
                            Golden(tensors, absl::StrCat("probs/", name)));
  ++group.cases;
  if (MarginOf(filter_case) < kTopPMargin) {
    ++group.undecided;
    return absl::OkStatus();
  }
  const std::span<const float> values(logits.const_data_ptr<float>(),
                                      static_cast<size_t>(logits.numel()));
  const std::vector<uint32_t> history(history_ids.const_data_ptr<int64_t>(),
                                      history_ids.const_data_ptr<int64_t>() + history_ids.numel());
  ROLLCALL_ASSIGN_OR_RETURN(
      const auto kept, sampler.KeptTokens(values, options, {.prompt = history, .completion = {}}));
  std::vector<double> ours(values.size(), 0.0);
  for (size_t i = 0; i < kept.tokens.size(); ++i) ours[kept.tokens[i]] = kept.probabilities[i];
  std::vector<double> theirs(expected.const_data_ptr<float>(),
                             expected.const_data_ptr<float>() + expected.numel());
  if (theirs.size() != ours.size())
    return absl::InvalidArgumentError(absl::StrCat(name, ": sizes differ"));

  bool same_set = true;
  if (filter_case.value("ties_at_boundary", false)) {
    // Which of the tied tokens stays is the reference's sort's choice: compare as multisets.
    same_set = kept.tokens.size() == filter_case.at("kept_count").get<size_t>();
    std::sort(ours.begin(), ours.end());
    std::sort(theirs.begin(), theirs.end());
  } else {
    // A float32 softmax rounds the least likely kept tokens to 0: the recorded list counts, not the
    // probabilities.
    const auto allowed = filter_case.at("kept").get<std::set<uint32_t>>();
    for (const uint32_t token : kept.tokens) same_set = same_set && allowed.count(token) > 0;
    for (size_t i = 0; i < ours.size(); ++i) same_set = same_set && (theirs[i] == 0 || ours[i] > 0);
  }
  if (!same_set && group.wrong_sets++ == 0) group.first_wrong = name;
  for (size_t i = 0; i < ours.size(); ++i) {
    group.probability_error =
        std::max(group.probability_error, AbsoluteDifference(ours[i], theirs[i]));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CompareFilters(const std::string& stem, Report& report) {
  ROLLCALL_ASSIGN_OR_RETURN(const Json golden, ReadGoldenJson(stem + ".json"));
  ROLLCALL_ASSIGN_OR_RETURN(const GoldenTensors tensors,
                            checkpoint::LoadTensors(stem + ".safetensors"));
  std::map<std::string, Group> groups;
  std::map<std::string, std::pair<std::string, int>>
      missing;  // combination -> what is missing, cases
  generator::TokenSampler sampler;
  for (const Json& filter_case : golden.at("cases")) {
    const std::string combination = Combination(filter_case.at("settings"));
    const std::string lacking = Missing(filter_case.at("settings"));
    if (lacking.empty()) {
      ROLLCALL_RETURN_IF_ERROR(CompareOne(filter_case, tensors, sampler, groups[combination]));
    } else {
      missing[combination].first = lacking;
      ++missing[combination].second;
    }
  }
  for (const auto& [combination, group] : groups) {
    const std::string note = absl::StrCat(
        group.cases, " cases",
        group.undecided == 0 ? "" : absl::StrCat(", ", group.undecided, " undecided left out"));
    report.Compare(absl::StrCat(combination, ": probabilities"), group.probability_error,
                   kProbabilityTolerance, note);
    report.Compare(
        absl::StrCat(combination, ": kept tokens"), group.wrong_sets, 0,
        group.first_wrong.empty() ? note : absl::StrCat("first wrong: ", group.first_wrong));
  }
  for (const auto& [combination, what] : missing) {
    report.NotSupported(combination,
                        absl::StrCat(what.first, " is not offered: ", what.second, " cases"));
  }
  return absl::OkStatus();
}

}  // namespace rollcall::verify
