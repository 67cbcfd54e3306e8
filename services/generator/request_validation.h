#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "rollcall/v1/generator.pb.h"
#include "services/generator/engine/generation_request.h"

namespace rollcall::generator {

// What a request is checked against; constant while a generator lives.
struct RequestLimits {
  uint32_t vocab_size = 0;
  uint32_t context_length = 0;          // tokens
  std::vector<uint32_t> eos_token_ids;  // the model's own
  bool has_tokenizer = false;
};

// Checks every field and fills in the defaults of generator.proto. Pure. INVALID_ARGUMENT starts
// with the field at fault; FAILED_PRECONDITION: text is wanted of a generator without a tokenizer.
absl::StatusOr<GenerationRequest> ParseGenerateRequest(const v1::GenerateRequest& request,
                                                       const RequestLimits& limits);

}  // namespace rollcall::generator
