#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/text/tokenizer.h"
#include "services/cli/commands/commands.h"
#include "services/cli/commands/reporting.h"
#include "services/cli/commands/text_input.h"

// What a model's tokenizer and chat template make of a text. No service: nothing but the text
// library that the services themselves use.
namespace rollcall::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

struct TokenizeFlags {
  std::string model;
  std::string text;
  bool ids = false;
  bool no_special = false;
  bool decode = false;
  bool json = false;
};

// "1 2 3", "1,2,3" or "[1, 2, 3]".
absl::StatusOr<std::vector<uint32_t>> ParseIds(const std::string& text) {
  std::vector<uint32_t> ids;
  for (const auto word : absl::StrSplit(text, absl::ByAnyChar(" \t\r\n,[]"), absl::SkipEmpty())) {
    if (!absl::SimpleAtoi(word, &ids.emplace_back())) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenize --decode: expected token ids, got \"",
                       absl::Utf8SafeCHexEscape(word.substr(0, 60)), "\""));
    }
  }
  return ids;
}

absl::Status Decode(const text::Tokenizer& tokenizer, const std::string& input,
                    const TokenizeFlags& flags) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<uint32_t> ids, ParseIds(input));
  ROLLCALL_ASSIGN_OR_RETURN(const std::string text,
                            tokenizer.Decode(ids, /*skip_special=*/flags.no_special));
  std::printf("%s\n", flags.json ? Dump({{"text", text}}).c_str() : text.c_str());
  return absl::OkStatus();
}

void PrintTokens(const text::Tokenizer& tokenizer, const text::Encoding& encoding,
                 const TokenizeFlags& flags) {
  if (flags.ids && !flags.json) {
    std::printf("%s\n", absl::StrJoin(encoding.ids, " ").c_str());
    return;
  }
  Json tokens = Json::array(), offsets = Json::array();
  for (size_t i = 0; i < encoding.ids.size(); ++i) {
    const std::string token = tokenizer.IdToToken(encoding.ids[i]).value_or("");
    const text::Encoding::Offset& offset = encoding.offsets[i];
    if (!flags.json) {
      std::printf("%8u  %5zu-%-5zu  %s\n", encoding.ids[i], offset.begin, offset.end,
                  absl::Utf8SafeCHexEscape(token).c_str());
    }
    tokens.push_back(token);
    offsets.push_back({offset.begin, offset.end});
  }
  if (!flags.json) {
    std::printf("%zu tokens\n", encoding.ids.size());
    return;
  }
  Json line = {{"ids", encoding.ids}};
  if (!flags.ids) {
    line["tokens"] = std::move(tokens);
    line["offsets"] = std::move(offsets);
  }
  std::printf("%s\n", Dump(line).c_str());
}

absl::Status Tokenize(const TokenizeFlags& flags) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::shared_ptr<const text::Tokenizer> tokenizer,
                            text::Tokenizer::Load(flags.model));
  ROLLCALL_ASSIGN_OR_RETURN(
      const std::string input,
      ArgumentOrStandardInput(flags.text, "tokenize", flags.decode ? "token ids" : "a text"));
  if (flags.decode) return Decode(*tokenizer, input, flags);
  ROLLCALL_ASSIGN_OR_RETURN(const text::Encoding encoding,
                            tokenizer->EncodeWithOffsets(input, !flags.no_special));
  PrintTokens(*tokenizer, encoding, flags);
  return absl::OkStatus();
}

struct ChatTemplateFlags {
  std::string model;
  std::string messages;
  std::string tools;
  std::string documents;
  std::string name;
  std::vector<std::string> variables;
  bool add_generation_prompt = false;
  bool continue_final_message = false;
  bool json = false;
};

// {"k": v} of "k=v"…, where a value that is JSON is that, and any other is a string.
absl::StatusOr<std::string> VariablesJson(const std::vector<std::string>& assignments) {
  if (assignments.empty()) return std::string();
  Json variables = Json::object();
  for (const std::string& assignment : assignments) {
    const size_t equals = assignment.find('=');
    if (equals == 0 || equals == std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("--var: expected name=value, got ", assignment));
    }
    const std::string value = assignment.substr(equals + 1);
    Json parsed = Json::parse(value, nullptr, /*allow_exceptions=*/false);
    variables[assignment.substr(0, equals)] =
        parsed.is_discarded() ? Json(value) : std::move(parsed);
  }
  return Dump(variables);
}

absl::Status ApplyTemplate(const ChatTemplateFlags& flags) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::shared_ptr<const text::Tokenizer> tokenizer,
                            text::Tokenizer::Load(flags.model));
  text::ChatTemplateOptions options{.template_name = flags.name,
                                    .add_generation_prompt = flags.add_generation_prompt,
                                    .continue_final_message = flags.continue_final_message};
  ROLLCALL_ASSIGN_OR_RETURN(options.extra_variables_json, VariablesJson(flags.variables));
  if (!flags.tools.empty()) {
    ROLLCALL_ASSIGN_OR_RETURN(options.tools_json, ReadFile(flags.tools));
  }
  if (!flags.documents.empty()) {
    ROLLCALL_ASSIGN_OR_RETURN(options.documents_json, ReadFile(flags.documents));
  }
  ROLLCALL_ASSIGN_OR_RETURN(
      const std::string messages,
      FileOrStandardInput(flags.messages, "chat-template", "messages with --messages FILE"));
  ROLLCALL_ASSIGN_OR_RETURN(const text::RenderedChat chat,
                            tokenizer->RenderChat(messages, options));
  if (!flags.json) {
    // Every byte counts, so not one is added.
    std::fwrite(chat.text.data(), 1, chat.text.size(), stdout);
    return absl::OkStatus();
  }
  Json spans = Json::array();
  for (const text::RenderedChat::Span& span : chat.generation_spans) {
    spans.push_back({span.begin, span.end});
  }
  std::printf("%s\n", Dump({{"text", chat.text}, {"generation_spans", std::move(spans)}}).c_str());
  return absl::OkStatus();
}

}  // namespace

void AddTokenizeCommand(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<TokenizeFlags>();
  CLI::App* command =
      app.add_subcommand("tokenize", "Show the tokens of a text, or the text of token ids");
  command->add_option("model", flags->model, "Hugging Face folder with a tokenizer.json")
      ->required();
  command->add_option("text", flags->text,
                      "The text (with --decode: ids); standard input, as it is, if absent");
  command->add_flag("--ids", flags->ids, "Print nothing but the ids");
  command->add_flag("--no-special", flags->no_special,
                    "Add no special tokens (BOS); with --decode: leave special tokens out");
  command->add_flag("--decode", flags->decode, "The other way: ids to text");
  command->add_flag("--json", flags->json,
                    "One JSON object: ids, tokens, offsets in bytes; with --decode: text");
  command->callback([flags, &exit_code] { exit_code = Report(Tokenize(*flags)); });
}

void AddChatTemplateCommand(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<ChatTemplateFlags>();
  CLI::App* command = app.add_subcommand(
      "chat-template", "Print the text that a model's chat template makes of a chat");
  command->add_option("model", flags->model, "Hugging Face folder with a chat template")
      ->required();
  command->add_option("--messages", flags->messages,
                      "JSON list of messages; standard input if absent or -");
  command->add_option("--tools", flags->tools, "JSON file with a list of tool schemas");
  command->add_option("--documents", flags->documents,
                      "JSON file with a list of documents, {\"title\": …, \"text\": …}");
  command->add_option("--template", flags->name,
                      "Name of a template, where the model has several; else tool_use for calls "
                      "with tools, where there is one, and default");
  command->add_flag("--add-generation-prompt", flags->add_generation_prompt,
                    "End with the header of the assistant's next message");
  command->add_flag("--continue-final-message", flags->continue_final_message,
                    "End inside the last message, for a model to go on with it");
  command
      ->add_option("--var", flags->variables,
                   "Further variable of the template, name=value (JSON, else a string); repeatable")
      ->allow_extra_args(false);
  command->add_flag("--json", flags->json,
                    "One JSON object: text, generation_spans (what the assistant said, in bytes)");
  command->callback([flags, &exit_code] { exit_code = Report(ApplyTemplate(*flags)); });
}

}  // namespace rollcall::cli
