#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/model/decoder.h"

namespace rollcall::generator::testing {

// A random Llama of 77 tokens, 2 layers and 512 tokens of context, whose words are "w0" to "w76";
// token 2 ends a completion. The same seed gives the same weights.
model::Decoder TinyDecoder(at::ScalarType dtype, uint64_t seed);

// Writes it as a Hugging Face folder, tokenizer included.
absl::Status WriteTinyFolder(const std::string& path, const model::Decoder& decoder);

// What the learner sees of a completion: log-probs of the tokens after the prompt, from one packed
// forward pass with gradients over all sequences together, whose loss is back-propagated
// unless told otherwise.
struct ScoredSequence {
  std::vector<uint32_t> tokens;  // prompt and completion
  size_t prompt_tokens = 0;
};
std::vector<std::vector<float>> LearnerLogProbs(model::Decoder& decoder,
                                                const std::vector<ScoredSequence>& sequences,
                                                double temperature, bool backward = true);

}  // namespace rollcall::generator::testing
