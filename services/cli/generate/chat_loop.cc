#include "services/cli/generate/chat_loop.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "common/base/status.h"

namespace rollcall::cli {
namespace {

// How soon a shutdown is noticed while nothing is typed.
constexpr int kPollMilliseconds = 100;

// Lines of standard input, without giving up the shutdown for the wait.
class LineInput {
 public:
  explicit LineInput(Shutdown& shutdown) : shutdown_(shutdown) {}

  // The next line; nullopt at the end of the input. CANCELLED when shutdown is requested.
  absl::StatusOr<std::optional<std::string>> Next() {
    while (true) {
      if (const size_t end = buffer_.find('\n'); end != std::string::npos) {
        std::string line = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        return line;
      }
      if (shutdown_.requested()) return absl::CancelledError("interrupted");
      pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
      if (poll(&input, 1, kPollMilliseconds) <= 0) continue;
      char block[4096];
      const ssize_t count = read(STDIN_FILENO, block, sizeof(block));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) {
        if (buffer_.empty()) return std::optional<std::string>();
        return std::exchange(buffer_, std::string());
      }
      buffer_.append(block, static_cast<size_t>(count));
    }
  }

 private:
  Shutdown& shutdown_;
  std::string buffer_;
};

nlohmann::json Message(const char* role, const std::string& content) {
  return {{"role", role}, {"content", content}};
}

nlohmann::json Opening(const std::string& system) {
  nlohmann::json messages = nlohmann::json::array();
  if (!system.empty()) messages.push_back(Message("system", system));
  return messages;
}

std::string Dump(const nlohmann::json& messages) {
  return messages.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

absl::StatusOr<std::vector<uint32_t>> ChatTokens(const text::Tokenizer& tokenizer,
                                                 const std::string& messages_json) {
  ROLLCALL_ASSIGN_OR_RETURN(
      const std::string text,
      tokenizer.ApplyChatTemplate(messages_json, {.add_generation_prompt = true}));
  return tokenizer.Encode(text, /*add_special_tokens=*/false);
}

absl::Status Chat(const text::Tokenizer& tokenizer, const std::string& system,
                  const AnswerFn& answer, Shutdown& shutdown) {
  LineInput input(shutdown);
  nlohmann::json messages = Opening(system);
  std::fprintf(stderr, "A message a line; /reset forgets, /exit or Ctrl-D ends.\n");
  for (uint64_t turn = 0;; ++turn) {
    std::fprintf(stderr, "> ");
    ROLLCALL_ASSIGN_OR_RETURN(const std::optional<std::string> line, input.Next());
    if (!line || *line == "/exit") return absl::OkStatus();
    if (absl::StripAsciiWhitespace(*line).empty()) continue;
    if (*line == "/reset") {
      messages = Opening(system);
      continue;
    }
    messages.push_back(Message("user", *line));
    absl::StatusOr<std::string> text;
    const auto tokens = ChatTokens(tokenizer, Dump(messages));
    text = tokens.ok() ? answer(*tokens, turn) : tokens.status();
    if (absl::IsInvalidArgument(text.status())) {
      std::fprintf(stderr, "%s\n", std::string(text.status().message()).c_str());
      messages.erase(messages.size() - 1);
      continue;
    }
    if (!text.ok()) return text.status();
    messages.push_back(Message("assistant", *text));
  }
}

}  // namespace rollcall::cli
