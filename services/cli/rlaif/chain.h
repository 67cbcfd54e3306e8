#pragma once

#include "absl/status/statusor.h"
#include "common/base/shutdown.h"
#include "rollcall/v1/config.pb.h"
#include "services/cli/train/session.h"

namespace rollcall::cli {

// Runs stage rlaif to its end: the steps of chain_plan.h, one after the other, each in a folder of the run's own. One model
// is in memory at a time while sampling, as many processes as the stage has while training. What is done is in
// <run>/chain.json (chain_state.h), and a half-done step goes on item by item, so the same call after an interruption
// samples nothing again and ends with the same bytes. <run>/final is the trained policy.
//
// Where the configuration has data.evaluation, held-out prompts are scored by reward.verifiers before the first step, after
// the fine-tuning and at the end.
//
// Blocks; call from the main thread. INVALID_ARGUMENT: the constitution or the configuration is at fault;
// FAILED_PRECONDITION: the folder is in use or was made with another configuration, or nothing is left to learn from; else
// what a service or a training stage failed with.
absl::StatusOr<SessionResult> RunChain(const v1::RunConfig& config, bool quiet, Shutdown& shutdown);

}  // namespace rollcall::cli
