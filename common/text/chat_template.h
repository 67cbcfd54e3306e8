#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

struct RollcallTemplate;

namespace rollcall::text {

struct ChatTemplateOptions {
  // Of a tokenizer with several templates; empty: the one for such a call. Not for ChatTemplate.
  std::string template_name;
  // A JSON list of tool schemas, as in the `tools` argument of transformers; empty: none.
  std::string tools_json;
  // Ends the text with the header of the assistant's next message.
  bool add_generation_prompt = false;
  // Ends the text inside the last message, so that a model continues it. Excludes the former.
  bool continue_final_message = false;
  // A JSON list of {"title": …, "text": …}, as in the `documents` argument; empty: none.
  std::string documents_json;
  // A JSON object of further variables (`enable_thinking`, …); empty: none.
  std::string extra_variables_json;
  // What `strftime_now` formats, in local time; absent: the time of the call.
  std::optional<absl::Time> now;
};

struct RenderedChat {
  // Bytes [begin, end) of `text`.
  struct Span {
    size_t begin;
    size_t end;
    bool operator==(const Span&) const = default;
  };

  std::string text;
  // One for each {% generation %} block (what the assistant said), in the order in which they end.
  // Empty where the template marks none.
  std::vector<Span> generation_spans;
};

// A compiled chat template in the environment of transformers' apply_chat_template: Jinja with
// trimmed blocks, loop controls, Python's string and dict methods, `raise_exception`,
// `strftime_now`, `tojson` spaced as json.dumps. What a template costs is bounded by
// crate/src/limits.rs (source, instructions, recursion, text, memory, time): beyond it is
// INVALID_ARGUMENT. After a rendering that took too much memory or time, every other one of this
// template is refused at once: what the first one held is not given back.
// Immutable; any number of threads may render.
class ChatTemplate {
 public:
  // `special_tokens`: variables such as bos_token; one that is absent is undefined in the template.
  // `origin` begins the messages of errors, as in "/models/m/chat_template.jinja".
  // INVALID_ARGUMENT with the line of a syntax error.
  static absl::StatusOr<std::shared_ptr<const ChatTemplate>> Compile(
      std::string_view source, std::map<std::string, std::string> special_tokens,
      std::string origin = "chat template");
  ~ChatTemplate();
  ChatTemplate(const ChatTemplate&) = delete;
  ChatTemplate& operator=(const ChatTemplate&) = delete;

  // `messages_json`: a JSON list of {"role": …, "content": …, …}. Of `reasoning_content`,
  // `reasoning` and `thinking`, a message gets those it lacks from the one it has.
  // INVALID_ARGUMENT where the JSON is not that, or where the template raises (its message is
  // kept).
  absl::StatusOr<RenderedChat> Render(std::string_view messages_json,
                                      const ChatTemplateOptions& options) const;

 private:
  ChatTemplate(RollcallTemplate* compiled, std::map<std::string, std::string> special_tokens,
               std::string origin);

  RollcallTemplate* const compiled_;
  const std::map<std::string, std::string> special_tokens_;
  const std::string origin_;
};

}  // namespace rollcall::text
