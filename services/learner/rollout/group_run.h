#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "rollcall/v1/logprob.pb.h"
#include "rollcall/v1/rollout.pb.h"
#include "rollcall/v1/verifier.pb.h"
#include "services/learner/rollout/group_assembly.h"
#include "services/learner/rollout/group_spec.h"
#include "services/learner/rollout/retry.h"

namespace rollcall::learner {

// Turns completion tokens into text, special tokens left out.
using DecodeFn = std::function<absl::StatusOr<std::string>(std::span<const uint32_t>)>;

// Reasons of v1::Dropped.
inline constexpr std::string_view kGenerationFailed = "generation_failed";
inline constexpr std::string_view kVerifierFailed = "verifier_failed";
inline constexpr std::string_view kReferenceFailed = "reference_failed";
inline constexpr std::string_view kPromptTooLong = "prompt_too_long";
inline constexpr std::string_view kShutdown = "shutdown";

// The life of one group as a state machine: generate (in as many streams as it takes), then score
// and reference side by side (where the spec asks for them), then finished or dropped with a reason. Decides what to do next and
// never does it: no I/O, no clock, no threads. An infrastructure failure is never a reward: a
// sample that no verifier scored has none.
class GroupRun {
 public:
  enum class Call { kGenerate, kScore, kReference };
  // "Make this call after `delay`." No action and finished() means that the group is done.
  struct Action {
    Call call;
    absl::Duration delay;
  };
  using Actions = std::vector<Action>;

  GroupRun(GroupSpec spec, uint32_t max_attempts, uint32_t vocab_size,
           const PublishedVersions* versions, DecodeFn decode);

  Actions Start() { return {{Call::kGenerate, absl::ZeroDuration()}}; }

  // The requests of the calls, without deadlines. GenerateRequest opens a stream of assembly(): its
  // messages go to assembly().OnMessage until OnGenerateDone.
  v1::GenerateRequest MakeGenerateRequest(const v1::PolicyVersion& min_version);
  v1::ScoreRequest MakeScoreRequest() const;
  v1::LogProbRequest MakeReferenceRequest() const;

  // How the calls ended. `broken_contract`: OnMessage refused a message (`outcome.status` is what
  // it said).
  Actions OnGenerateDone(const CallOutcome& outcome, bool broken_contract);
  Actions OnScoreDone(const CallOutcome& outcome, const v1::ScoreResponse& response);
  Actions OnReferenceDone(const CallOutcome& outcome, const v1::LogProbResponse& response);

  // Ends it now, as dropped.
  void Drop(std::string_view reason, std::string_view detail);

  bool finished() const { return phase_ == Phase::kFinished; }
  const GroupSpec& spec() const { return spec_; }
  GroupAssembly& assembly() { return assembly_; }
  // Faults met so far, of any call.
  uint32_t faults() const { return faults_; }

  // The record, once finished(): outcome `finished` or `dropped`. Times, run id and lineage are the
  // caller's to fill.
  v1::Group TakeGroup();

 private:
  enum class Phase { kGenerating, kScoring, kFinished };

  Actions AfterGeneration();
  void DecodeTexts();
  // Keeps every usable result of a response; returns how many samples are still without score or
  // abstention.
  absl::StatusOr<uint32_t> KeepScores(const v1::ScoreResponse& response);
  Actions RetryScore(const CallOutcome& outcome);
  void SettleScores();
  absl::Status KeepReference(const v1::LogProbResponse& response);
  void FinishIfDone();

  const GroupSpec spec_;
  const uint32_t max_attempts_;
  const DecodeFn decode_;

  Phase phase_ = Phase::kGenerating;
  GroupAssembly assembly_;
  std::vector<std::string> texts_;             // per sample, once generated
  std::vector<v1::SampleResult> results_;      // per sample; outcome not set: none yet
  std::vector<std::vector<float>> reference_;  // per sample, one per completion token
  bool score_done_ = false;
  bool reference_done_ = false;
  uint32_t generate_attempts_ = 0;
  uint32_t score_attempts_ = 0;
  uint32_t reference_attempts_ = 0;
  uint32_t faults_ = 0;
  std::string last_fault_;
  v1::GroupOutcome outcome_;
};

}  // namespace rollcall::learner
