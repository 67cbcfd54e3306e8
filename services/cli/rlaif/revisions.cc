#include "services/cli/rlaif/revisions.h"

#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "services/cli/rlaif/preference.h"
#include "services/cli/rlaif/step_progress.h"

namespace rollcall::cli {
namespace {

constexpr uint8_t kStepNumber = 2;

std::string Trimmed(const std::string& text) {
  return std::string(absl::StripAsciiWhitespace(text));
}

// The white space that `text` begins with: how the policy's answers follow its prompts.
std::string LeadingSpace(const std::string& text) {
  return text.substr(0, text.size() - absl::StripLeadingAsciiWhitespace(text).size());
}

}  // namespace

RevisionsStep::RevisionsStep(const v1::RunConfig& config, const Constitution& constitution,
                             const ChainPrompts& prompts, std::vector<std::vector<Answer>> answers,
                             StepInputs inputs)
    : config_(config),
      constitution_(constitution),
      prompts_(prompts),
      answers_(std::move(answers)),
      inputs_(std::move(inputs)),
      weights_(constitution.weights()) {}

std::vector<uint64_t> RevisionsStep::Items() const {
  std::vector<uint64_t> items;
  for (uint64_t item = 0; item < answers_.size(); ++item) {
    if (!answers_[item].empty()) items.push_back(item);
  }
  return items;
}

bool RevisionsStep::Complete(const Parts& parts) const {
  return parts.size() >= config_.rlaif().revisions() ||
         (!parts.empty() && parts.back().contains("left_out"));
}

absl::Status RevisionsStep::Work(uint64_t item, Parts done, const ServedModel& model,
                                 const Emit& emit) const {
  while (!Complete(done)) {
    const std::string answer =
        done.empty() ? answers_[item].front().text : done.back().at("revision").get<std::string>();
    ROLLCALL_ASSIGN_OR_RETURN(Json part,
                              Round(item, static_cast<uint32_t>(done.size()), answer, model));
    done.push_back(part);
    if (!emit(std::move(part))) return absl::CancelledError("interrupted");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<Completion>> RevisionsStep::Ask(const FeedbackPrompt& prompt,
                                                             uint64_t group,
                                                             const ServedModel& model) const {
  ROLLCALL_ASSIGN_OR_RETURN(const EncodedPrompt encoded, EncodeFeedback(model.tokenizer, prompt));
  if (encoded.token_ids.size() >= model.context_length) return std::optional<Completion>();
  ROLLCALL_ASSIGN_OR_RETURN(
      std::vector<Completion> completions,
      model.client.Sample(
          SampleRequestOf(WithinContext(config_.rlaif().feedback_sampling(), model.context_length),
                          encoded.token_ids, 1, config_.seed(), group)));
  return std::move(completions.front());
}

absl::StatusOr<RevisionsStep::Json> RevisionsStep::Round(uint64_t item, uint32_t round,
                                                         const std::string& answer,
                                                         const ServedModel& model) const {
  const std::string& prompt = prompts_.rows[item].text;
  const size_t principle = DrawPrinciple(config_.seed(), item, round, weights_);
  ROLLCALL_ASSIGN_OR_RETURN(const std::optional<Completion> critique,
                            Ask(constitution_.Critique(principle, prompt, answer),
                                GroupOf(kStepNumber, item, 2 * round), model));
  if (!critique) return Json{{"left_out", "too_long"}};
  ROLLCALL_ASSIGN_OR_RETURN(const std::optional<Completion> revision,
                            Ask(constitution_.Revision(principle, prompt, answer, critique->text),
                                GroupOf(kStepNumber, item, 2 * round + 1), model));
  if (!revision) return Json{{"left_out", "too_long"}};
  const std::string text = Trimmed(revision->text);
  if (text.empty()) return Json{{"left_out", "empty"}};
  if (revision->cut_off()) return Json{{"left_out", "cut_off"}};
  return Json{{"principle", constitution_.principle(principle).name()},
              {"critique", Trimmed(critique->text)},
              {"critique_cut_off", critique->cut_off()},
              {"revision", LeadingSpace(answers_[item].front().text) + text}};
}

RevisionsStep::Json RevisionsStep::Row(uint64_t item, const Parts& parts) const {
  const Json& last = parts.back();
  Json row = {{config_.data().prompt_column(), prompts_.rows[item].column},
              {config_.data().completion_column(), last.at("revision")},
              {"principle", last.at("principle")},
              {"critique", last.at("critique")},
              {"original_answer", answers_[item].front().text},
              {"prompt_id", item}};
  if (parts.size() > 1) row["rounds"] = parts;
  return row;
}

absl::StatusOr<StepOutput> RevisionsStep::Conclude(const std::map<uint64_t, Parts>& items) const {
  StepOutput output;
  std::string& lines = output.files["sft.jsonl"];
  Json left_out = {{"no_answer", answers_.size() - Items().size()},
                   {"cut_off", 0},
                   {"empty", 0},
                   {"too_long", 0}};
  Json drawn = Json::object();
  for (size_t i = 0; i < constitution_.size(); ++i) drawn[constitution_.principle(i).name()] = 0;
  uint64_t kept = 0, unchanged = 0, critiques_cut_off = 0;
  for (const auto& [item, parts] : items) {
    for (const Json& part : parts) {
      if (part.contains("left_out")) continue;
      drawn[part.at("principle").get<std::string>()].get_ref<int64_t&>() += 1;
      critiques_cut_off += part.at("critique_cut_off").get<bool>() ? 1 : 0;
    }
    if (parts.back().contains("left_out")) {
      left_out[parts.back().at("left_out").get<std::string>()].get_ref<int64_t&>() += 1;
      continue;
    }
    ++kept;
    unchanged += parts.back().at("revision") == answers_[item].front().text ? 1 : 0;
    lines += JsonLine(Row(item, parts));
  }
  output.summary = {{"revised", kept},
                    {"unchanged", unchanged},
                    {"critiques_cut_off", critiques_cut_off},
                    {"left_out", left_out},
                    {"drawn", drawn}};
  if (kept > 0) return output;
  return absl::FailedPreconditionError(
      absl::StrCat("no revision is left to learn from: ", FormatSummary(left_out),
                   "; look at the constitution's prompts and at rlaif.feedback_sampling"));
}

}  // namespace rollcall::cli
