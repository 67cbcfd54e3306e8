#pragma once

#include <google/protobuf/descriptor.h>

#include <set>
#include <string>
#include <vector>

namespace rollcall::contracts {

// A contract as lines, one for each thing that a peer or a stored file depends on:
//
//   field rollcall.v1.Score.value = 1 double
//   field rollcall.v1.SampleResult.score = 2 rollcall.v1.Score in outcome
//   value rollcall.v1.FinishReason.FINISH_REASON_LENGTH = 3
//   rpc rollcall.v1.Verifier.Score rollcall.v1.ScoreRequest -> rollcall.v1.ScoreResponse
//
// A change is compatible when no line goes away: a removed, renumbered, retyped or moved field, a
// removed value or RPC, and a changed streaming mode each take one away; additions only add.
std::set<std::string> ListContract(
    const std::vector<const google::protobuf::FileDescriptor*>& files);

// Fields and RPCs without a comment of their own or documentation in (rules). A field may share the
// comment of the field in the line above it. Needs descriptors that were built from source.
std::vector<std::string> FindUndocumented(
    const std::vector<const google::protobuf::FileDescriptor*>& files);

}  // namespace rollcall::contracts
