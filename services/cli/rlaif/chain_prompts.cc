#include "services/cli/rlaif/chain_prompts.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/wire/sha256.h"
#include "services/cli/rlaif/item_log.h"
#include "services/learner/data/prompt_set.h"

namespace rollcall::cli {
namespace {

ChainPrompt PromptOf(const v1::PromptRow& row) {
  ChainPrompt prompt{.token_ids = {row.token_ids().begin(), row.token_ids().end()},
                     .text = row.text(),
                     .column = row.text()};
  if (row.messages().empty()) return prompt;
  prompt.text.clear();
  prompt.column = nlohmann::ordered_json::array();
  for (const v1::ChatMessage& message : row.messages()) {
    prompt.column.push_back({{"role", message.role()}, {"content", message.content()}});
    if (row.messages_size() == 1) {
      prompt.text = message.content();
    } else {
      absl::StrAppend(&prompt.text, prompt.text.empty() ? "" : "\n\n", message.role(), ": ",
                      message.content());
    }
  }
  return prompt;
}

}  // namespace

absl::StatusOr<ChainPrompts> LoadChainPrompts(const v1::RunConfig& config,
                                              const text::Tokenizer& tokenizer) {
  ROLLCALL_ASSIGN_OR_RETURN(const learner::PromptSet set,
                            learner::LoadPrompts(config.data(), config.data().train(), tokenizer));
  ChainPrompts prompts;
  const uint32_t most = config.rlaif().max_prompts();
  wire::Sha256 hash;
  for (const v1::PromptRow& row : set.rows) {
    if (most > 0 && prompts.rows.size() == most) break;
    ChainPrompt& prompt = prompts.rows.emplace_back(PromptOf(row));
    const std::string line = JsonLine({prompt.token_ids, prompt.column});
    hash.Update(line);
  }
  prompts.hash = wire::ToHex(hash.Finish());
  prompts.left_out = {{"unreadable", set.left_out.unreadable},
                      {"too_long", set.left_out.too_long},
                      {"beyond_max_prompts", set.rows.size() - prompts.rows.size()},
                      {"cut_to_their_end", set.left_out.truncated}};
  return prompts;
}

std::string PromptFile(const ChainPrompts& prompts, const std::string& prompt_column) {
  std::string lines;
  for (const ChainPrompt& prompt : prompts.rows) {
    lines += JsonLine({{prompt_column, prompt.column}});
  }
  return lines;
}

}  // namespace rollcall::cli
