#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "rollcall/v1/config.pb.h"
#include "services/cli/rlaif/chain_plan.h"
#include "services/cli/rlaif/chain_state.h"

namespace rollcall::cli {

// Contents that are not in the configuration, as hashes.
struct ChainContents {
  std::string prompts;
  std::string constitution;
  std::string held_out;  // of data.evaluation's files; empty without
};

// 16 hex digits that differ where the bytes do.
std::string ShortHash(std::string_view bytes);

// What `step` depends on: the parts of the configuration that it reads, and the steps before it in `state`, which are done.
// What changes speed alone is not among it. Pure.
StepInputs InputsOf(ChainStep step, const v1::RunConfig& config, const ChainContents& contents,
                    const ChainState& state);

// The same of an evaluation of what `step` left; nullptr: of the initial policy.
StepInputs EvaluationInputs(const ChainStep* step, const v1::RunConfig& config,
                            const ChainContents& contents, const ChainState& state);

}  // namespace rollcall::cli
