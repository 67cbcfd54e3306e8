#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/tokenizer.h"
#include "rollcall/v1/constitution.pb.h"
#include "services/cli/rlaif/prompt_template.h"

namespace rollcall::cli {

// What a model that gives feedback is asked.
struct FeedbackPrompt {
  // Of a chat: a JSON list of messages, examples first; else empty.
  std::string messages_json;
  // Else: the text that the model continues.
  std::string text;
};

// A constitution that was read and found whole. Immutable; thread-safe. Principles are named by their index.
class Constitution {
 public:
  // Reads the YAML file in the schema of constitution.proto. INVALID_ARGUMENT lists what is wrong, one line each, as
  // "rules.yaml:12: principles[0].critique: unknown placeholder {anser}; did you mean {answer}? …"; NOT_FOUND or
  // PERMISSION_DENIED for an unreadable file.
  static absl::StatusOr<Constitution> Load(const std::string& path);
  // From memory; `name` stands for the file in messages.
  static absl::StatusOr<Constitution> Parse(std::string_view yaml, std::string_view name);

  const std::string& name() const { return message_.name(); }
  size_t size() const { return principles_.size(); }
  const v1::Principle& principle(size_t index) const {
    return message_.principles(static_cast<int>(index));
  }
  std::vector<double> weights() const;
  // What the judge says for the one and for the other answer.
  const std::string& label_a() const { return message_.label_a(); }
  const std::string& label_b() const { return message_.label_b(); }

  FeedbackPrompt Critique(size_t principle, std::string_view prompt, std::string_view answer) const;
  FeedbackPrompt Revision(size_t principle, std::string_view prompt, std::string_view answer,
                          std::string_view critique) const;
  FeedbackPrompt Judgement(size_t principle, std::string_view prompt, std::string_view answer_a,
                           std::string_view answer_b) const;

 private:
  // A principle's request within its frame.
  struct Framed {
    PromptTemplate frame;
    PromptTemplate request;
    std::string Render(PlaceholderValues values) const;
  };
  struct Prompts {
    Framed critique, revision, judgement;
  };
  class Reader;

  // The turns of a conversation, a prompt and what is said to it in turn; the last prompt has no answer.
  FeedbackPrompt Join(const std::vector<std::string>& turns) const;
  size_t IndexOf(const std::string& name, size_t otherwise) const;

  v1::Constitution message_;
  std::vector<Prompts> principles_;
};

// The tokens of a prompt: a chat by the tokenizer's template, with the header of its answer; a text with the tokenizer's
// special tokens. FAILED_PRECONDITION: a chat, and no template.
struct EncodedPrompt {
  std::string text;
  std::vector<uint32_t> token_ids;
  bool special_tokens_added = false;
};
absl::StatusOr<EncodedPrompt> EncodeFeedback(const text::Tokenizer& tokenizer,
                                             const FeedbackPrompt& prompt);

}  // namespace rollcall::cli
