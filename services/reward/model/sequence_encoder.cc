#include "services/reward/model/sequence_encoder.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace rollcall::reward {
namespace {

using Json = nlohmann::json;

bool IsChat(const v1::VerifierGroup& group) {
  if (group.prompt_messages().empty()) return false;
  const v1::ChatMessage& first = group.prompt_messages(0);
  return group.prompt_messages_size() > 1 || first.role() != "user" ||
         first.content() != group.prompt_text();
}

void AddMessage(const std::string& role, const std::string& content, Json* messages) {
  messages->push_back({{"role", role}, {"content", content}});
}

}  // namespace

absl::StatusOr<std::vector<uint32_t>> SequenceEncoder::Encode(
    const v1::VerifierGroup& group, const v1::VerifierSample& sample) const {
  const bool chat = IsChat(group);
  ROLLCALL_ASSIGN_OR_RETURN(std::vector<uint32_t> ids, chat && options_.apply_chat_template
                                                           ? EncodeChat(group, sample)
                                                           : EncodeJoined(group, sample, chat));
  if (ids.empty() || ids.size() > options_.context_length) {
    return absl::InvalidArgumentError(absl::StrCat("prompt and completion are ", ids.size(),
                                                   " tokens, the reward model reads 1 to ",
                                                   options_.context_length));
  }
  for (const uint32_t id : ids) {
    if (id >= options_.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token ", id, " is outside the reward model's vocabulary of ", options_.vocab_size));
    }
  }
  return ids;
}

absl::StatusOr<std::vector<uint32_t>> SequenceEncoder::EncodeChat(
    const v1::VerifierGroup& group, const v1::VerifierSample& sample) const {
  if (!tokenizer_->has_chat_template()) {
    return absl::FailedPreconditionError(
        "the prompt is a chat and the reward model has no chat template; "
        "apply_chat_template: false joins the texts instead");
  }
  Json messages = Json::array();
  for (const v1::ChatMessage& message : group.prompt_messages()) {
    AddMessage(message.role(), message.content(), &messages);
  }
  for (const v1::ChatMessage& message : sample.messages()) {
    AddMessage(message.role(), message.content(), &messages);
  }
  if (sample.messages().empty()) AddMessage("assistant", sample.text(), &messages);
  ROLLCALL_ASSIGN_OR_RETURN(const std::string text,
                            tokenizer_->ApplyChatTemplate(
                                messages.dump(-1, ' ', false, Json::error_handler_t::replace), {}));
  return tokenizer_->Encode(text, /*add_special_tokens=*/false);
}

absl::StatusOr<std::vector<uint32_t>> SequenceEncoder::EncodeJoined(
    const v1::VerifierGroup& group, const v1::VerifierSample& sample, bool chat) const {
  if (options_.policy_tokens) {
    std::vector<uint32_t> ids(group.prompt_token_ids().begin(), group.prompt_token_ids().end());
    ids.insert(ids.end(), sample.token_ids().begin(), sample.token_ids().end());
    return ids;
  }
  ROLLCALL_ASSIGN_OR_RETURN(std::vector<uint32_t> ids,
                            tokenizer_->Encode(absl::StrCat(group.prompt_text(), sample.text()),
                                               /*add_special_tokens=*/!chat));
  const std::optional<uint32_t> eos = tokenizer_->eos_id();
  const bool ended = sample.finish_reason() == v1::FINISH_REASON_STOP_TOKEN;
  if (ended && eos && (ids.empty() || ids.back() != *eos)) ids.push_back(*eos);
  return ids;
}

}  // namespace rollcall::reward
