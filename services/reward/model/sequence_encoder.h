#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/tokenizer.h"
#include "rollcall/v1/verifier.pb.h"

namespace rollcall::reward {

struct SequenceEncoderOptions {
  // Render chats with the model's own template.
  bool apply_chat_template = true;
  // The model speaks the policy's tokens, so the policy's ids may be taken as they are.
  bool policy_tokens = false;
  uint32_t vocab_size = 0;
  uint32_t context_length = 0;  // tokens
};

// Makes of a prompt and its completion the tokens that a reward model reads. Thread-safe.
//
//   prompt is a chat, apply_chat_template   the template's text of prompt and answer, tokenised
//   else, policy_tokens                     the policy's ids: prompt, then completion, stop token
//                                           included
//   else                                    the two texts joined and tokenised, with what the
//                                           tokenizer puts in front of a text where the prompt is
//                                           none of a chat, and the end of sequence behind a
//                                           completion that ended by itself
//
// A prompt is a chat unless it is one user's message equal to the prompt's text (verifier.proto).
class SequenceEncoder {
 public:
  SequenceEncoder(std::shared_ptr<const text::Tokenizer> tokenizer,
                  const SequenceEncoderOptions& options)
      : tokenizer_(std::move(tokenizer)), options_(options) {}

  // INVALID_ARGUMENT: no tokens, more than the context holds, an id outside the vocabulary, a text
  // that is no UTF-8, or a chat that the template refuses; FAILED_PRECONDITION: a chat, and the
  // model has no template.
  absl::StatusOr<std::vector<uint32_t>> Encode(const v1::VerifierGroup& group,
                                               const v1::VerifierSample& sample) const;

 private:
  absl::StatusOr<std::vector<uint32_t>> EncodeChat(const v1::VerifierGroup& group,
                                                   const v1::VerifierSample& sample) const;
  absl::StatusOr<std::vector<uint32_t>> EncodeJoined(const v1::VerifierGroup& group,
                                                     const v1::VerifierSample& sample,
                                                     bool chat) const;

  const std::shared_ptr<const text::Tokenizer> tokenizer_;
  const SequenceEncoderOptions options_;
};

}  // namespace rollcall::reward
