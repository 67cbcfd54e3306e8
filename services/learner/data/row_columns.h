#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "rollcall/v1/config.pb.h"
#include "services/learner/data/jsonl_file.h"

namespace rollcall::learner {

// The name under which verifiers find a row's answer, whatever its file calls it.
inline constexpr char kAnswerColumn[] = "answer";

// What a row's column was found to be: its name in the configuration's words, and its value.
struct FoundColumn {
  std::string name;
  const nlohmann::json* value = nullptr;  // of the row; nullptr: the row has no such column
};

// The prompt of a row, the first that it has of
//   1. data.prompt_column     (prompt: Rollcall's and TRL's rows, verl's with their list of messages)
//   2. data.messages_column   (messages: a chat)
//   3. data.question_column   (question: GSM8K as it is published)
FoundColumn FindPrompt(const v1::DataSection& data, const nlohmann::json& row);

// The answer of a row: data.answer_column where that is set, else the first that the row has of
//   1. answer                      (GSM8K, whose solutions end in "#### 42")
//   2. ground_truth
//   3. reward_model.ground_truth   (verl)
FoundColumn FindAnswer(const v1::DataSection& data, const nlohmann::json& row);

// The names of a row's columns, the first few of them, for messages.
std::string ColumnsShown(const nlohmann::json& row);

// INVALID_ARGUMENT for a row without a prompt: names the columns that were looked for and those
// that the row has.
absl::Status NoPrompt(const v1::DataSection& data, const RowPlace& place,
                      const nlohmann::json& row);

}  // namespace rollcall::learner
