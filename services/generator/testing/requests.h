#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/model/decoder.h"
#include "rollcall/v1/generator.pb.h"
#include "rollcall/v1/identity.pb.h"
#include "rollcall/v1/weights.pb.h"
#include "services/generator/testing/generator_client.h"

namespace rollcall::generator::testing {

// A group with a random prompt below token 77, which depends on `group_id` alone; nothing ends it
// early.
v1::GenerateRequest Request(uint64_t group_id, uint32_t prompt_tokens, uint32_t samples,
                            uint32_t max_tokens);

// Whether two calls went well and gave equal tokens, with log-probs of equal bits.
::testing::AssertionResult SameSamples(const Outcome& a, const Outcome& b);

// Whether a generator, by its metrics page, gave back the blocks of every request that was cancelled,
// abandoned or late within the step that ran, and of at least `least` requests.
::testing::AssertionResult CancelsWithinAStep(const std::string& metrics_text, int least);

// The weights of a decoder, or its adapter, as a learner of run "run" pushes them.
struct Published {
  v1::PolicyVersion version;
  v1::WeightManifest manifest;
  std::vector<std::string> tensors;
  std::optional<v1::AdapterContent> adapter;

  // `folder`: of the served model, for its tokenizer.
  Published(const model::Decoder& decoder, const std::string& folder, uint64_t lineage,
            uint64_t step);
};

}  // namespace rollcall::generator::testing
