#include "services/cli/rlaif/constitution.h"

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/config/yaml.h"

namespace rollcall::cli {
namespace {

// Of one of the three prompts: what its templates may hold, and what they must.
struct PromptKind {
  const char* field;
  const char* frame_field;
  std::span<const std::string_view> known;
  std::span<const std::string_view> needed;
};

constexpr std::string_view kCritiqueKnown[] = {"prompt", "answer", "principle"};
constexpr std::string_view kRevisionKnown[] = {"prompt", "answer", "critique", "principle"};
constexpr std::string_view kJudgementKnown[] = {"prompt", "answer_a", "answer_b", "principle"};
constexpr std::string_view kAnswerNeeded[] = {"answer"};
constexpr std::string_view kAnswersNeeded[] = {"answer_a", "answer_b"};
constexpr PromptKind kCritique{"critique", "critique_frame", kCritiqueKnown, kAnswerNeeded};
constexpr PromptKind kRevision{"revision", "revision_frame", kRevisionKnown, kAnswerNeeded};
constexpr PromptKind kJudgement{"judgement", "judgement_frame", kJudgementKnown, kAnswersNeeded};

std::string Trimmed(std::string_view text) {
  return std::string(absl::StripAsciiWhitespace(absl::string_view(text.data(), text.size())));
}

}  // namespace

// Turns the message into templates and gathers everything that is wrong with it.
class Constitution::Reader {
 public:
  Reader(Constitution& constitution, const config::Origins& origins, std::string_view file)
      : constitution_(constitution), origins_(origins), file_(file) {}

  absl::Status Read() {
    v1::Constitution& message = constitution_.message_;
    const bool chat = message.format() == v1::CONSTITUTION_FORMAT_CHAT;
    if (message.label_a().empty()) message.set_label_a(chat ? "A" : " A");
    if (message.label_b().empty()) message.set_label_b(chat ? "B" : " B");
    if (message.label_a() == message.label_b()) {
      Error("label_b", "is the same as label_a: the judge could not choose");
    }
    const auto critique = Frame(kCritique, message.critique_frame());
    const auto revision = Frame(kRevision, message.revision_frame());
    const auto judgement = Frame(kJudgement, message.judgement_frame());
    std::map<std::string, int> first_of_name;
    for (int i = 0; i < message.principles_size(); ++i) {
      const v1::Principle& principle = message.principles(i);
      const std::string path = absl::StrCat("principles[", i, "]");
      const auto [first, is_new] = first_of_name.emplace(principle.name(), i);
      if (!is_new) {
        Error(path + ".name",
              absl::StrCat("\"", principle.name(), "\" is also the name of principles[",
                           first->second, "]"));
      }
      const auto asks = Request(kCritique, path, principle.critique(), critique);
      const auto revises = Request(kRevision, path, principle.revision(), revision);
      const auto judges = Request(kJudgement, path, principle.judgement(), judgement);
      if (!asks || !revises || !judges) continue;
      constitution_.principles_.push_back(
          {{*critique, *asks}, {*revision, *revises}, {*judgement, *judges}});
    }
    for (int i = 0; i < message.revision_examples_size(); ++i) {
      CheckExample("revision_examples", i, message.revision_examples(i).principle(), first_of_name);
    }
    for (int i = 0; i < message.judgement_examples_size(); ++i) {
      CheckExample("judgement_examples", i, message.judgement_examples(i).principle(),
                   first_of_name);
    }
    if (errors_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrJoin(errors_, "\n"));
  }

 private:
  void Error(const std::string& field, std::string_view what) {
    const auto origin = origins_.find(field);
    errors_.push_back(absl::StrCat(origin == origins_.end() ? file_ : origin->second, ": ", field,
                                   ": ", std::string(what)));
  }

  std::optional<PromptTemplate> ParseInto(const std::string& field, const std::string& text,
                                          std::span<const std::string_view> known) {
    absl::StatusOr<PromptTemplate> parsed = PromptTemplate::Parse(text, known);
    if (parsed.ok()) return *std::move(parsed);
    Error(field, std::string(parsed.status().message()));
    return std::nullopt;
  }

  std::optional<PromptTemplate> Frame(const PromptKind& kind, const std::string& text) {
    std::vector<std::string_view> known = {"request"};
    known.insert(known.end(), kind.known.begin(), kind.known.end());
    auto frame = ParseInto(kind.frame_field, text, known);
    if (frame && !frame->Has("request")) {
      Error(kind.frame_field,
            absl::StrCat("needs {request}, which stands for each principle's ", kind.field));
      return std::nullopt;
    }
    return frame;
  }

  // What a principle asks; `frame` absent: it was wrong itself.
  std::optional<PromptTemplate> Request(const PromptKind& kind, const std::string& principle,
                                        const std::string& text,
                                        const std::optional<PromptTemplate>& frame) {
    const std::string field = absl::StrCat(principle, ".", kind.field);
    auto request = ParseInto(field, text, kind.known);
    if (!request || !frame) return std::nullopt;
    for (const std::string_view needed : kind.needed) {
      if (request->Has(needed) || frame->Has(needed)) continue;
      Error(field, absl::StrCat("neither it nor ", kind.frame_field, " shows {",
                                std::string(needed), "}"));
      return std::nullopt;
    }
    return request;
  }

  void CheckExample(const char* list, int index, const std::string& principle,
                    const std::map<std::string, int>& names) {
    if (principle.empty() || names.contains(principle)) return;
    Error(absl::StrCat(list, "[", index, "].principle"),
          absl::StrCat("no principle has the name \"", principle, "\""));
  }

  Constitution& constitution_;
  const config::Origins& origins_;
  const std::string file_;
  std::vector<std::string> errors_;
};

absl::StatusOr<Constitution> Constitution::Load(const std::string& path) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::string yaml, ReadFile(path));
  return Parse(yaml, path);
}

absl::StatusOr<Constitution> Constitution::Parse(std::string_view yaml, std::string_view name) {
  Constitution constitution;
  config::Origins origins;
  ROLLCALL_RETURN_IF_ERROR(config::ParseYaml(yaml, name, {}, &constitution.message_, {}, &origins));
  ROLLCALL_RETURN_IF_ERROR(Reader(constitution, origins, name).Read());
  return constitution;
}

std::vector<double> Constitution::weights() const {
  std::vector<double> weights;
  for (const v1::Principle& principle : message_.principles()) {
    weights.push_back(principle.weight());
  }
  return weights;
}

std::string Constitution::Framed::Render(PlaceholderValues values) const {
  values["request"] = request.Render(values);
  return frame.Render(values);
}

size_t Constitution::IndexOf(const std::string& name, size_t otherwise) const {
  for (size_t i = 0; i < size(); ++i) {
    if (principle(i).name() == name) return i;
  }
  return otherwise;
}

FeedbackPrompt Constitution::Critique(size_t index, std::string_view prompt,
                                      std::string_view answer) const {
  std::vector<std::string> turns;
  for (const v1::RevisionExample& example : message_.revision_examples()) {
    const size_t of = IndexOf(example.principle(), index);
    turns.push_back(principles_[of].critique.Render({{"prompt", example.prompt()},
                                                     {"answer", example.answer()},
                                                     {"principle", principle(of).name()}}));
    turns.push_back(example.critique());
  }
  turns.push_back(principles_[index].critique.Render({{"prompt", Trimmed(prompt)},
                                                      {"answer", Trimmed(answer)},
                                                      {"principle", principle(index).name()}}));
  return Join(turns);
}

FeedbackPrompt Constitution::Revision(size_t index, std::string_view prompt,
                                      std::string_view answer, std::string_view critique) const {
  std::vector<std::string> turns;
  for (const v1::RevisionExample& example : message_.revision_examples()) {
    const size_t of = IndexOf(example.principle(), index);
    turns.push_back(principles_[of].revision.Render({{"prompt", example.prompt()},
                                                     {"answer", example.answer()},
                                                     {"critique", Trimmed(example.critique())},
                                                     {"principle", principle(of).name()}}));
    turns.push_back(example.revision());
  }
  turns.push_back(principles_[index].revision.Render({{"prompt", Trimmed(prompt)},
                                                      {"answer", Trimmed(answer)},
                                                      {"critique", Trimmed(critique)},
                                                      {"principle", principle(index).name()}}));
  return Join(turns);
}

FeedbackPrompt Constitution::Judgement(size_t index, std::string_view prompt,
                                       std::string_view answer_a, std::string_view answer_b) const {
  std::vector<std::string> turns;
  for (const v1::JudgementExample& example : message_.judgement_examples()) {
    const size_t of = IndexOf(example.principle(), index);
    turns.push_back(principles_[of].judgement.Render({{"prompt", example.prompt()},
                                                      {"answer_a", example.answer_a()},
                                                      {"answer_b", example.answer_b()},
                                                      {"principle", principle(of).name()}}));
    turns.push_back(example.better() == v1::BETTER_ANSWER_A ? label_a() : label_b());
  }
  turns.push_back(principles_[index].judgement.Render({{"prompt", Trimmed(prompt)},
                                                       {"answer_a", Trimmed(answer_a)},
                                                       {"answer_b", Trimmed(answer_b)},
                                                       {"principle", principle(index).name()}}));
  return Join(turns);
}

FeedbackPrompt Constitution::Join(const std::vector<std::string>& turns) const {
  FeedbackPrompt prompt;
  if (message_.format() == v1::CONSTITUTION_FORMAT_CHAT) {
    nlohmann::json messages = nlohmann::json::array();
    for (size_t i = 0; i < turns.size(); ++i) {
      messages.push_back({{"role", i % 2 == 0 ? "user" : "assistant"},
                          {"content", i % 2 == 0 ? turns[i] : Trimmed(turns[i])}});
    }
    prompt.messages_json = messages.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    return prompt;
  }
  for (size_t i = 0; i < turns.size(); ++i) {
    absl::StrAppend(&prompt.text, turns[i], i % 2 == 0 ? "" : message_.separator());
  }
  return prompt;
}

absl::StatusOr<EncodedPrompt> EncodeFeedback(const text::Tokenizer& tokenizer,
                                             const FeedbackPrompt& prompt) {
  EncodedPrompt encoded{.text = prompt.text, .special_tokens_added = prompt.messages_json.empty()};
  if (!prompt.messages_json.empty()) {
    text::ChatTemplateOptions options;
    options.add_generation_prompt = true;
    ROLLCALL_ASSIGN_OR_RETURN(encoded.text,
                              tokenizer.ApplyChatTemplate(prompt.messages_json, options));
  }
  ROLLCALL_ASSIGN_OR_RETURN(encoded.token_ids,
                            tokenizer.Encode(encoded.text, encoded.special_tokens_added));
  return encoded;
}

}  // namespace rollcall::cli
