#include "services/cli/rlaif/judgements.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "services/cli/rlaif/step_progress.h"
#include "services/learner/data/chat_encoding.h"

namespace rollcall::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string Trimmed(const std::string& text) {
  return std::string(absl::StripAsciiWhitespace(text));
}

void Count(Json& counts, const std::string& reason) { counts[reason].get_ref<int64_t&>() += 1; }

// Of the labels behind a prompt; each holds a token at least.
absl::StatusOr<std::vector<uint32_t>> LabelTokens(const text::Tokenizer& tokenizer,
                                                  const EncodedPrompt& prompt,
                                                  const std::string& label) {
  ROLLCALL_ASSIGN_OR_RETURN(
      std::vector<uint32_t> ids,
      learner::EncodeContinuation(tokenizer, prompt.text, prompt.token_ids, prompt.text + label,
                                  prompt.special_tokens_added));
  if (!ids.empty()) return ids;
  return absl::InvalidArgumentError(
      absl::StrCat("the judge's tokenizer makes no token of the label \"", label, "\""));
}

}  // namespace

std::string ReasonToLeaveOut(const AnswerPair& pair) {
  const std::string first = Trimmed(pair.first->text), second = Trimmed(pair.second->text);
  if (pair.first->cut_off || pair.second->cut_off) return "cut_off";
  if (first.empty() || second.empty()) return "empty";
  return first == second ? "equal" : "";
}

// What the pairs come to.
struct JudgementsStep::Tally {
  StepOutput output;
  Json left_out = {{"cut_off", 0}, {"empty", 0}, {"equal", 0}, {"too_long", 0}, {"undecided", 0}};
  uint64_t kept = 0;
  uint64_t judgements = 0, agreeing = 0;
  double bias = 0, strength = 0;

  void Add(const Judgement& judgement) {
    ++judgements;
    agreeing += judgement.OrdersAgree() ? 1 : 0;
    bias += judgement.PositionBias();
  }
  Json Summary(size_t pairs) const {
    const double judged = static_cast<double>(std::max<uint64_t>(judgements, 1));
    return {{"pairs", pairs},
            {"kept", kept},
            {"left_out", left_out},
            {"judgements", judgements},
            {"orders_agree", static_cast<double>(agreeing) / judged},
            {"position_bias_nats", bias / judged},
            {"mean_log_odds", strength / static_cast<double>(std::max<uint64_t>(kept, 1))}};
  }
};

JudgementsStep::JudgementsStep(const v1::RunConfig& config, const Constitution& constitution,
                               const ChainPrompts& prompts,
                               std::vector<std::vector<Answer>> answers, StepInputs inputs)
    : config_(config),
      constitution_(constitution),
      prompts_(prompts),
      answers_(std::move(answers)),
      inputs_(std::move(inputs)),
      weights_(constitution.weights()) {
  for (uint64_t prompt = 0; prompt < answers_.size(); ++prompt) {
    for (size_t i = 0; i + 1 < answers_[prompt].size(); ++i) {
      pairs_.push_back({prompt, &answers_[prompt][i], &answers_[prompt][i + 1]});
    }
  }
}

std::vector<uint64_t> JudgementsStep::Items() const {
  std::vector<uint64_t> items;
  for (uint64_t item = 0; item < pairs_.size(); ++item) {
    if (ReasonToLeaveOut(pairs_[item]).empty()) items.push_back(item);
  }
  return items;
}

bool JudgementsStep::Complete(const Parts& parts) const {
  return parts.size() >= constitution_.size() ||
         (!parts.empty() && parts.back().contains("left_out"));
}

absl::Status JudgementsStep::Work(uint64_t item, Parts done, const ServedModel& model,
                                  const Emit& emit) const {
  while (!Complete(done)) {
    ROLLCALL_ASSIGN_OR_RETURN(Json part, Judge(pairs_[item], done.size(), model));
    done.push_back(part);
    if (!emit(std::move(part))) return absl::CancelledError("interrupted");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<double>> JudgementsStep::LabelOdds(size_t principle,
                                                                const std::string& prompt,
                                                                const std::string& a,
                                                                const std::string& b,
                                                                const ServedModel& model) const {
  ROLLCALL_ASSIGN_OR_RETURN(
      const EncodedPrompt encoded,
      EncodeFeedback(model.tokenizer, constitution_.Judgement(principle, prompt, a, b)));
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<uint32_t> label_a,
                            LabelTokens(model.tokenizer, encoded, constitution_.label_a()));
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<uint32_t> label_b,
                            LabelTokens(model.tokenizer, encoded, constitution_.label_b()));
  if (encoded.token_ids.size() + std::max(label_a.size(), label_b.size()) >= model.context_length) {
    return std::optional<double>();
  }
  if (label_a == label_b) {
    return absl::InvalidArgumentError(
        absl::StrCat("the judge's tokenizer makes the same tokens of label_a \"",
                     constitution_.label_a(), "\" and label_b \"", constitution_.label_b(), "\""));
  }
  ROLLCALL_ASSIGN_OR_RETURN(const auto logprobs,
                            model.client.Compare(encoded.token_ids, label_a, label_b));
  return logprobs.first - logprobs.second;
}

absl::StatusOr<Json> JudgementsStep::Judge(const AnswerPair& pair, size_t principle,
                                           const ServedModel& model) const {
  const std::string& prompt = prompts_.rows[pair.prompt].text;
  ROLLCALL_ASSIGN_OR_RETURN(
      const std::optional<double> as_a,
      LabelOdds(principle, prompt, pair.first->text, pair.second->text, model));
  if (!as_a) return Json{{"left_out", "too_long"}};
  ROLLCALL_ASSIGN_OR_RETURN(
      const std::optional<double> as_b,
      LabelOdds(principle, prompt, pair.second->text, pair.first->text, model));
  if (!as_b) return Json{{"left_out", "too_long"}};
  return Json{{"shown_first", *as_a}, {"shown_second", -*as_b}};
}

void JudgementsStep::AddPair(uint64_t item, const Parts& parts, Tally& tally) const {
  if (parts.back().contains("left_out")) {
    return Count(tally.left_out, parts.back().at("left_out").get<std::string>());
  }
  const AnswerPair& pair = pairs_[item];
  const Answer& begin = answers_[pair.prompt].front();
  const auto within_prompt = static_cast<uint64_t>(pair.first - &begin);
  std::vector<Judgement> judgements;
  Json under = Json::object();
  for (size_t i = 0; i < parts.size(); ++i) {
    judgements.push_back(
        {parts[i].at("shown_first").get<double>(), parts[i].at("shown_second").get<double>()});
    tally.Add(judgements.back());
    under[constitution_.principle(i).name()] = parts[i];
  }
  const double log_odds = CombineLogOdds(judgements, weights_);
  tally.output.files["judgements.jsonl"] += JsonLine({{"prompt_id", pair.prompt},
                                                      {"pair", within_prompt},
                                                      {"first", pair.first->text},
                                                      {"second", pair.second->text},
                                                      {"log_odds", log_odds},
                                                      {"principles", under}});
  if (log_odds == 0 || std::fabs(log_odds) < config_.rlaif().min_log_odds()) {
    return Count(tally.left_out, "undecided");
  }
  const bool first_is_better = log_odds > 0;
  ++tally.kept;
  tally.strength += std::fabs(log_odds);
  const v1::DataSection& data = config_.data();
  tally.output.files["pairs.jsonl"] +=
      JsonLine({{data.prompt_column(), prompts_.rows[pair.prompt].column},
                {data.chosen_column(), (first_is_better ? pair.first : pair.second)->text},
                {data.rejected_column(), (first_is_better ? pair.second : pair.first)->text},
                {"preference", PreferenceOf(std::fabs(log_odds))},
                {"log_odds", std::fabs(log_odds)},
                {"prompt_id", pair.prompt},
                {"pair", within_prompt}});
}

absl::StatusOr<StepOutput> JudgementsStep::Conclude(const std::map<uint64_t, Parts>& items) const {
  Tally tally;
  tally.output.files = {{"judgements.jsonl", ""}, {"pairs.jsonl", ""}};
  for (const AnswerPair& pair : pairs_) {
    const std::string reason = ReasonToLeaveOut(pair);
    if (!reason.empty()) Count(tally.left_out, reason);
  }
  for (const auto& [item, parts] : items) AddPair(item, parts, tally);
  tally.output.summary = tally.Summary(pairs_.size());
  if (tally.kept > 0) return std::move(tally.output);
  return absl::FailedPreconditionError(
      absl::StrCat("no preference is left to learn from: ", FormatSummary(tally.output.summary),
                   "; more answers (rlaif.answers_per_prompt), another temperature, or a smaller "
                   "rlaif.min_log_odds"));
}

}  // namespace rollcall::cli
