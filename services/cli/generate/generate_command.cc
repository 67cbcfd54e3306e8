#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/shutdown.h"
#include "common/base/status.h"
#include "common/text/tokenizer.h"
#include "services/cli/commands/commands.h"
#include "services/cli/commands/reporting.h"
#include "services/cli/commands/text_input.h"
#include "services/cli/generate/chat_loop.h"
#include "services/cli/generate/completion_stream.h"
#include "services/cli/generate/generate_flags.h"
#include "services/cli/local/local_service.h"

namespace rollcall::cli {
namespace {

absl::StatusOr<std::vector<uint32_t>> PromptTokens(const text::Tokenizer& tokenizer,
                                                   const GenerateFlags& flags) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::string prompt,
                            ArgumentOrStandardInput(flags.prompt, "generate", "a prompt"));
  if (!flags.chat) return tokenizer.Encode(prompt, /*add_special_tokens=*/true);
  nlohmann::json messages = nlohmann::json::array();
  if (!flags.system.empty()) messages.push_back({{"role", "system"}, {"content", flags.system}});
  messages.push_back({{"role", "user"}, {"content", prompt}});
  return ChatTokens(tokenizer,
                    messages.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

absl::Status Generate(const GenerateFlags& flags) {
  Shutdown shutdown;
  ROLLCALL_ASSIGN_OR_RETURN(const std::shared_ptr<const text::Tokenizer> tokenizer,
                            text::Tokenizer::Load(flags.model));
  const bool interactive =
      flags.prompt.empty() && isatty(STDIN_FILENO) == 1 && tokenizer->has_chat_template();
  std::vector<uint32_t> tokens;
  if (!interactive) {
    ROLLCALL_ASSIGN_OR_RETURN(tokens, PromptTokens(*tokenizer, flags));
  }
  // Flags that cannot be understood are said so before a model is loaded.
  ROLLCALL_ASSIGN_OR_RETURN(const v1::GenerateRequest request,
                            MakeGenerateRequest(*tokenizer, tokens, flags, /*turn=*/0));
  std::vector<std::string> sets = {absl::StrCat("model.path=", flags.model)};
  if (!flags.adapter.empty()) {
    if (!flags.connect.empty()) {
      return absl::InvalidArgumentError(
          "--adapter: a running generator (--connect) has the adapter that it was started with or "
          "was sent");
    }
    sets.push_back(absl::StrCat("model.lora.path=", flags.adapter));
  }
  sets.insert(sets.end(), flags.sets.begin(), flags.sets.end());
  std::unique_ptr<LocalService> generator;
  ROLLCALL_ASSIGN_OR_RETURN(
      const std::shared_ptr<grpc::Channel> channel,
      ConnectOrStart(flags.connect, LocalService::Kind::kGenerator, sets, shutdown, generator));
  if (!interactive) return PrintCompletions(channel, request, flags, shutdown).status();
  const AnswerFn answer = [&](const std::vector<uint32_t>& prompt,
                              uint64_t turn) -> absl::StatusOr<std::string> {
    ROLLCALL_ASSIGN_OR_RETURN(const v1::GenerateRequest next,
                              MakeGenerateRequest(*tokenizer, prompt, flags, turn));
    return PrintCompletions(channel, next, flags, shutdown);
  };
  return Chat(*tokenizer, flags.system, answer, shutdown);
}

}  // namespace

void AddGenerateCommand(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command = app.add_subcommand("generate", "Sample completions of a prompt, streaming");
  AddGenerateOptions(*command, *flags);
  command->callback([flags, &exit_code] { exit_code = Report(Generate(*flags)); });
}

}  // namespace rollcall::cli
