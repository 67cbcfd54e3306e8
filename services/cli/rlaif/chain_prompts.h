#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/tokenizer.h"
#include "rollcall/v1/config.pb.h"

namespace rollcall::cli {

// A prompt of the chain, in the three forms that its steps need.
struct ChainPrompt {
  // As the policy sees it.
  std::vector<uint32_t> token_ids;
  // As a constitution's {prompt}: the text, the only message, or all of a chat with their roles.
  std::string text;
  // As data files hold it: a string or a list of messages.
  nlohmann::ordered_json column;
};

struct ChainPrompts {
  std::vector<ChainPrompt> rows;
  // Equal for equal rows.
  std::string hash;
  // Rows of the files that are no prompt of the chain, by reason, and those cut to their end.
  nlohmann::ordered_json left_out;
};

// The first rlaif.max_prompts prompts of data.train, in the order of the files, by the policy's tokenizer. Statuses of
// learner::LoadPrompts.
absl::StatusOr<ChainPrompts> LoadChainPrompts(const v1::RunConfig& config,
                                              const text::Tokenizer& tokenizer);

// JSON Lines of the prompts alone, for the training stage that samples by itself.
std::string PromptFile(const ChainPrompts& prompts, const std::string& prompt_column);

}  // namespace rollcall::cli
