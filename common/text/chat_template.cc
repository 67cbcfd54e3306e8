#include "common/text/chat_template.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "common/text/crate/rollcall_text.h"
#include "common/text/crate_buffer.h"
#include "nlohmann/json.hpp"

namespace rollcall::text {
namespace {

using Json = nlohmann::ordered_json;

// Appended to the message to be continued, then looked for in the rendered text. The space at its
// end tells whether the template keeps trailing spaces.
constexpr std::string_view kContinueMark = "ROLLCALL_CONTINUES_HERE ";

// Of messages, tools and variables: the crate's JSON reader goes no deeper.
constexpr int kMaxDepth = 120;

absl::StatusOr<Json> Parse(std::string_view text, const char* what, Json::value_t type) {
  bool too_deep = false;
  const auto check_depth = [&](int depth, Json::parse_event_t, Json&) {
    too_deep = too_deep || depth > kMaxDepth;
    return !too_deep;
  };
  Json value = Json::parse(text, check_depth, /*allow_exceptions=*/false);
  if (too_deep) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": nested deeper than ", kMaxDepth, " levels"));
  }
  if (value.is_discarded()) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": not valid JSON"));
  }
  if (value.type() != type) {
    return absl::InvalidArgumentError(absl::StrCat(
        what, ": expected a JSON ", Json(type).type_name(), ", got ", value.type_name()));
  }
  return value;
}

void ShareReasoning(Json& message) {
  constexpr const char* kNames[] = {"reasoning_content", "reasoning", "thinking"};
  for (const char* name : kNames) {
    if (!message.contains(name) || message[name].is_null()) continue;
    const Json reasoning = message[name];
    for (const char* other : kNames) {
      if (!message.contains(other)) message[other] = reasoning;
    }
    return;
  }
}

absl::Status MarkEnd(Json& messages) {
  if (messages.empty() || !messages.back().contains("content")) {
    return absl::InvalidArgumentError("continue_final_message: the last message has no content");
  }
  Json& content = messages.back()["content"];
  if (content.is_string()) {
    content = content.get<std::string>().append(kContinueMark);
    return absl::OkStatus();
  }
  for (auto part = content.rbegin(); content.is_array() && part != content.rend(); ++part) {
    if (!part->is_object() || !part->contains("text") || !(*part)["text"].is_string()) continue;
    (*part)["text"] = (*part)["text"].get<std::string>().append(kContinueMark);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("continue_final_message: the last message has no text");
}

absl::Status CutAtMark(RenderedChat& chat) {
  const std::string_view word = kContinueMark.substr(0, kContinueMark.size() - 1);
  const size_t at = chat.text.rfind(word);
  if (at == std::string::npos) {
    return absl::InvalidArgumentError(
        "continue_final_message: the template leaves out or changes the last message");
  }
  const bool keeps_spaces = std::string_view(chat.text).substr(at).starts_with(kContinueMark);
  chat.text.resize(at);
  if (!keeps_spaces) chat.text.resize(chat.text.find_last_not_of(" \t\r\n\v\f") + 1);
  for (RenderedChat::Span& span : chat.generation_spans) {
    span.begin = std::min(span.begin, chat.text.size());
    span.end = std::min(span.end, chat.text.size());
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ChatTemplate>> ChatTemplate::Compile(
    std::string_view source, std::map<std::string, std::string> special_tokens,
    std::string origin) {
  RollcallTemplate* compiled = nullptr;
  CrateBuffer error;
  const int32_t code =
      rollcall_template_compile(CrateBytes(source), source.size(), &compiled, error.out());
  if (absl::Status status = CrateStatus(code, error); !status.ok()) {
    return Annotate(std::move(status), origin);
  }
  return std::shared_ptr<const ChatTemplate>(
      new ChatTemplate(compiled, std::move(special_tokens), std::move(origin)));
}

ChatTemplate::ChatTemplate(RollcallTemplate* compiled,
                           std::map<std::string, std::string> special_tokens, std::string origin)
    : compiled_(compiled), special_tokens_(std::move(special_tokens)), origin_(std::move(origin)) {}

ChatTemplate::~ChatTemplate() { rollcall_template_free(compiled_); }

absl::StatusOr<RenderedChat> ChatTemplate::Render(std::string_view messages_json,
                                                  const ChatTemplateOptions& options) const {
  if (options.add_generation_prompt && options.continue_final_message) {
    return absl::InvalidArgumentError(
        "add_generation_prompt and continue_final_message exclude each other");
  }
  ROLLCALL_ASSIGN_OR_RETURN(Json messages, Parse(messages_json, "messages", Json::value_t::array));
  for (Json& message : messages) {
    if (!message.is_object()) {
      return absl::InvalidArgumentError("messages: every message must be a JSON object");
    }
    ShareReasoning(message);
  }
  if (options.continue_final_message) ROLLCALL_RETURN_IF_ERROR(MarkEnd(messages));

  Json variables = Json::object();
  for (const auto& [name, token] : special_tokens_) variables[name] = token;
  variables["messages"] = std::move(messages);
  variables["tools"] = nullptr;
  variables["documents"] = nullptr;
  variables["add_generation_prompt"] = options.add_generation_prompt;
  if (!options.tools_json.empty()) {
    ROLLCALL_ASSIGN_OR_RETURN(variables["tools"],
                              Parse(options.tools_json, "tools", Json::value_t::array));
  }
  if (!options.documents_json.empty()) {
    ROLLCALL_ASSIGN_OR_RETURN(variables["documents"],
                              Parse(options.documents_json, "documents", Json::value_t::array));
  }
  if (!options.extra_variables_json.empty()) {
    ROLLCALL_ASSIGN_OR_RETURN(
        const Json extra, Parse(options.extra_variables_json, "variables", Json::value_t::object));
    variables.update(extra);
  }

  const std::string encoded =
      variables.dump(/*indent=*/-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
  CrateBuffer text, spans, error;
  const int32_t code = rollcall_template_render(
      compiled_, CrateBytes(encoded), encoded.size(),
      absl::ToUnixSeconds(options.now.value_or(absl::Now())), text.out(), spans.out(), error.out());
  if (absl::Status status = CrateStatus(code, error); !status.ok()) {
    return Annotate(std::move(status), origin_);
  }
  RenderedChat chat{text.ToString(), {}};
  const std::vector<uint64_t> numbers = spans.ToVector<uint64_t>();
  for (size_t i = 0; i + 1 < numbers.size(); i += 2) {
    chat.generation_spans.push_back({numbers[i], numbers[i + 1]});
  }
  if (options.continue_final_message) ROLLCALL_RETURN_IF_ERROR(CutAtMark(chat));
  return chat;
}

}  // namespace rollcall::text
