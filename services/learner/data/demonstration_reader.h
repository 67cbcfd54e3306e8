#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/text/tokenizer.h"
#include "rollcall/v1/config.pb.h"
#include "services/learner/data/chat_encoding.h"
#include "services/learner/data/jsonl_file.h"
#include "services/learner/data/row_columns.h"

namespace rollcall::learner {

// Turns a row into the tokens of its prompt and completion, as LoadDemonstrations describes.
// Thread-safe.
class DemonstrationReader {
 public:
  using Example = MaskedTokens;

  // `data` and `tokenizer` must outlive the reader. max_sequence_tokens 0: no bound.
  DemonstrationReader(const v1::DataSection& data, const text::Tokenizer& tokenizer,
                      uint64_t max_sequence_tokens)
      : data_(data), tokenizer_(tokenizer), max_sequence_tokens_(max_sequence_tokens) {}

  // INVALID_ARGUMENT: the row has no such columns, or nothing in it is taught; FAILED_PRECONDITION:
  // the tokenizer lacks a template or an end-of-sequence token that is asked for.
  absl::StatusOr<MaskedTokens> Read(const RowPlace& place, const nlohmann::json& row) const;
  // A prompt with its completion, wherever the row has them. Statuses of Read.
  absl::StatusOr<MaskedTokens> ReadPair(const RowPlace& place, const FoundColumn& prompt,
                                        const FoundColumn& completion) const;

  // INVALID_ARGUMENT: the prompt or the whole is longer than allowed.
  absl::Status CheckLength(const RowPlace& place, const MaskedTokens& tokens) const;
  // How many tokens have to go for both bounds to hold.
  uint64_t Surplus(const MaskedTokens& tokens) const;
  // Drops that many tokens of the prompt's beginning; false, and nothing is dropped, where none of
  // the prompt would be left.
  static bool Cut(MaskedTokens& tokens, uint64_t count);
  // Cuts what is too much.
  absl::StatusOr<bool> Truncate(MaskedTokens& tokens) const { return Cut(tokens, Surplus(tokens)); }
  void SetSource(MaskedTokens&, uint32_t) const {}

 private:
  absl::StatusOr<MaskedTokens> EncodePair(const RowPlace& place, const FoundColumn& prompt,
                                          const FoundColumn& completion) const;
  absl::StatusOr<MaskedTokens> EncodeStrings(const std::string& prompt,
                                             const std::string& completion) const;

  const v1::DataSection& data_;
  const text::Tokenizer& tokenizer_;
  const uint64_t max_sequence_tokens_;
};

}  // namespace rollcall::learner
