#include "services/learner/rollout/group_run.h"

#include <cmath>
#include <utility>

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/wire/sha256.h"
#include "services/learner/reference/log_prob_answer.h"

namespace rollcall::learner {
namespace {

std::string Describe(const absl::Status& status) {
  return absl::StrCat(absl::StatusCodeToString(status.code()), ": ", std::string(status.message()));
}

AssemblyLimits LimitsOf(const GroupSpec& spec, uint32_t vocab_size) {
  return {spec.num_samples, spec.sampling.max_tokens(), vocab_size};
}

// Equal for equal samples of an equal prompt and row, whichever run they come from.
std::string IdempotencyKey(const v1::VerifierGroup& group) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);  // columns are a map
    group.SerializeToCodedStream(&coded);
  }
  return wire::ToHex(wire::Sha256Of(bytes));
}

void FillReward(const v1::SampleResult& result, v1::RewardRecord* reward) {
  v1::VerifierOutcome* provenance = reward->add_verifiers();
  provenance->set_verifier("reward");
  provenance->set_weight(1);
  switch (result.outcome_case()) {
    case v1::SampleResult::kScore:
      reward->set_value(result.score().value());
      *reward->mutable_components() = result.score().components();
      provenance->set_score(result.score().value());
      provenance->set_detail(result.score().detail());
      break;
    case v1::SampleResult::kAbstain:
      provenance->set_abstained(result.abstain().reason());
      break;
    case v1::SampleResult::kRetry:
      provenance->set_failed(result.retry().reason());
      break;
    case v1::SampleResult::kError:
      provenance->set_failed(result.error().reason());
      break;
    case v1::SampleResult::OUTCOME_NOT_SET:
      provenance->set_failed("no answer");
      break;
  }
}

}  // namespace

GroupRun::GroupRun(GroupSpec spec, uint32_t max_attempts, uint32_t vocab_size,
                   const PublishedVersions* versions, DecodeFn decode)
    : spec_(std::move(spec)),
      max_attempts_(max_attempts),
      decode_(std::move(decode)),
      assembly_(LimitsOf(spec_, vocab_size), versions),
      results_(spec_.num_samples),
      reference_(spec_.num_samples) {
  score_done_ = !spec_.with_score;
  reference_done_ = !spec_.with_reference;
}

v1::GenerateRequest GroupRun::MakeGenerateRequest(const v1::PolicyVersion& min_version) {
  v1::GenerateRequest request;
  request.mutable_key()->set_run_seed(spec_.run_seed);
  request.mutable_key()->set_purpose(spec_.purpose);
  request.mutable_key()->set_group_id(spec_.group_id);
  *request.mutable_prompt_token_ids() = spec_.prompt.token_ids();
  request.set_num_samples(spec_.num_samples);
  *request.mutable_sampling() = spec_.sampling;
  *request.mutable_stop() = spec_.stop;
  *request.mutable_min_version() = min_version;
  assembly_.BeginStream(min_version, request);
  return request;
}

GroupRun::Actions GroupRun::OnGenerateDone(const CallOutcome& outcome, bool broken_contract) {
  if (finished()) return {};
  absl::Status status = outcome.status;
  if (status.ok()) status = assembly_.CheckComplete();
  if (status.ok()) return AfterGeneration();
  // All samples may have ended although the stream's end was lost.
  if (broken_contract) assembly_.Rollback();
  if (!broken_contract && assembly_.complete()) return AfterGeneration();

  last_fault_ = Describe(status);
  if (IsBackPressure(status) || absl::IsFailedPrecondition(status)) {
    // Full, or it lost its weights since we looked: not this group's attempt, the generator is
    // taken out of the pool until it is seen with the current version again.
    return {{Call::kGenerate, Backoff(1, outcome.retry_after)}};
  }
  ++faults_;
  ++generate_attempts_;
  if (!IsRetryable(status)) {
    if (!assembly_.has_prefixes()) {
      Drop(kGenerationFailed, last_fault_);
      return {};
    }
    assembly_.Reset();  // the prefix may be what it refuses
  }
  if (generate_attempts_ >= max_attempts_) {
    Drop(kGenerationFailed, absl::StrCat(generate_attempts_, " attempts, the last: ", last_fault_));
    return {};
  }
  return {{Call::kGenerate, Backoff(generate_attempts_, outcome.retry_after)}};
}

GroupRun::Actions GroupRun::AfterGeneration() {
  phase_ = Phase::kScoring;
  DecodeTexts();
  Actions actions;
  if (!score_done_) actions.push_back({Call::kScore, absl::ZeroDuration()});
  if (!reference_done_) actions.push_back({Call::kReference, absl::ZeroDuration()});
  FinishIfDone();
  return actions;
}

void GroupRun::DecodeTexts() {
  texts_.clear();
  for (const GroupAssembly::Sample& sample : assembly_.samples()) {
    absl::StatusOr<std::string> text = decode_(sample.token_ids);
    // Ids were checked against the vocabulary, so this is a gap in the tokenizer's table: verifiers
    // see an empty text and still have the tokens.
    texts_.push_back(text.ok() ? *std::move(text) : std::string());
  }
}

v1::ScoreRequest GroupRun::MakeScoreRequest() const {
  v1::ScoreRequest request;
  v1::VerifierGroup* group = request.add_groups();
  group->set_group_id(spec_.group_id);
  if (spec_.prompt.messages().empty()) {
    v1::ChatMessage* message = group->add_prompt_messages();
    message->set_role("user");
    message->set_content(spec_.prompt.text());
  }
  for (const v1::ChatMessage& message : spec_.prompt.messages()) {
    *group->add_prompt_messages() = message;
  }
  group->set_prompt_text(spec_.prompt.text());
  *group->mutable_prompt_token_ids() = spec_.prompt.token_ids();
  *group->mutable_columns() = spec_.prompt.columns();
  for (uint32_t i = 0; i < spec_.num_samples; ++i) {
    const GroupAssembly::Sample& sample = assembly_.samples()[i];
    v1::VerifierSample* out = group->add_samples();
    out->set_index(i);
    out->set_text(texts_[i]);
    out->mutable_token_ids()->Add(sample.token_ids.begin(), sample.token_ids.end());
    out->set_finish_reason(sample.finish_reason);
  }
  request.set_idempotency_key(IdempotencyKey(*group));
  return request;
}

GroupRun::Actions GroupRun::OnScoreDone(const CallOutcome& outcome,
                                        const v1::ScoreResponse& response) {
  if (finished() || score_done_) return {};
  CallOutcome effective = outcome;
  if (effective.status.ok()) {
    absl::StatusOr<uint32_t> missing = KeepScores(response);
    if (missing.ok() && *missing == 0) {
      SettleScores();
      return {};
    }
    effective.status =
        missing.ok() ? absl::UnavailableError(absl::StrCat(*missing, " samples have no result"))
                     : missing.status();
  }
  return RetryScore(effective);
}

absl::StatusOr<uint32_t> GroupRun::KeepScores(const v1::ScoreResponse& response) {
  if (response.groups_size() != 1 || response.groups(0).group_id() != spec_.group_id ||
      response.groups(0).samples_size() != static_cast<int>(spec_.num_samples)) {
    return absl::InternalError("the verifier did not answer for this group and all of its samples");
  }
  uint32_t missing = 0;
  for (uint32_t i = 0; i < spec_.num_samples; ++i) {
    v1::SampleResult& kept = results_[i];
    if (kept.has_score() || kept.has_abstain()) continue;
    const v1::SampleResult& result = response.groups(0).samples(static_cast<int>(i));
    if (result.index() != i) {
      kept.mutable_retry()->set_reason(
          absl::StrCat("the verifier answered index ", result.index(), " in place ", i));
    } else if (result.has_score() && !std::isfinite(result.score().value())) {
      kept.mutable_retry()->set_reason("the score is not finite");
    } else {
      kept = result;
    }
    missing += kept.has_score() || kept.has_abstain() ? 0 : 1;
  }
  return missing;
}

GroupRun::Actions GroupRun::RetryScore(const CallOutcome& outcome) {
  last_fault_ = Describe(outcome.status);
  if (IsBackPressure(outcome.status)) return {{Call::kScore, Backoff(1, outcome.retry_after)}};
  ++faults_;
  ++score_attempts_;
  if (!IsRetryable(outcome.status) || score_attempts_ >= max_attempts_) {
    for (v1::SampleResult& result : results_) {
      if (result.outcome_case() == v1::SampleResult::OUTCOME_NOT_SET) {
        result.mutable_error()->set_reason(last_fault_);
      }
    }
    SettleScores();
    return {};
  }
  return {{Call::kScore, Backoff(score_attempts_, outcome.retry_after)}};
}

void GroupRun::SettleScores() {
  score_done_ = true;
  uint32_t scored = 0;
  for (const v1::SampleResult& result : results_) scored += result.has_score() ? 1 : 0;
  if (scored < spec_.min_valid_samples) {
    Drop(kVerifierFailed,
         absl::StrCat(scored, " of ", spec_.num_samples, " samples have a score, ",
                      spec_.min_valid_samples, " are needed",
                      last_fault_.empty() ? "" : "; the last fault: ", last_fault_));
    return;
  }
  FinishIfDone();
}

v1::LogProbRequest GroupRun::MakeReferenceRequest() const {
  v1::LogProbRequest request;
  // Greedy samples (T = 0) carry log-probs at temperature 1.
  const float temperature = spec_.sampling.temperature();
  request.set_temperature(temperature > 0 ? temperature : 1.0f);
  const auto prompt_tokens = static_cast<uint32_t>(spec_.prompt.token_ids_size());
  for (const GroupAssembly::Sample& sample : assembly_.samples()) {
    v1::TokenSequence* sequence = request.add_sequences();
    *sequence->mutable_token_ids() = spec_.prompt.token_ids();
    sequence->mutable_token_ids()->Add(sample.token_ids.begin(), sample.token_ids.end());
    sequence->set_score_from(prompt_tokens);
  }
  return request;
}

GroupRun::Actions GroupRun::OnReferenceDone(const CallOutcome& outcome,
                                            const v1::LogProbResponse& response) {
  if (finished() || reference_done_) return {};
  absl::Status status = outcome.status;
  if (status.ok()) status = KeepReference(response);
  if (status.ok()) {
    reference_done_ = true;
    FinishIfDone();
    return {};
  }
  last_fault_ = Describe(status);
  if (IsBackPressure(status)) return {{Call::kReference, Backoff(1, outcome.retry_after)}};
  ++faults_;
  ++reference_attempts_;
  if (!IsRetryable(status) || reference_attempts_ >= max_attempts_) {
    Drop(kReferenceFailed, absl::StrCat(reference_attempts_, " attempts, the last: ", last_fault_));
    return {};
  }
  return {{Call::kReference, Backoff(reference_attempts_, outcome.retry_after)}};
}

absl::Status GroupRun::KeepReference(const v1::LogProbResponse& response) {
  std::vector<size_t> tokens;
  for (const GroupAssembly::Sample& sample : assembly_.samples()) {
    tokens.push_back(sample.token_ids.size());
  }
  ROLLCALL_RETURN_IF_ERROR(CheckLogProbs(response, tokens));
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto& logprobs = response.sequences(static_cast<int>(i)).logprobs();
    reference_[i].assign(logprobs.begin(), logprobs.end());
  }
  return absl::OkStatus();
}

void GroupRun::FinishIfDone() {
  if (finished() || !score_done_ || !reference_done_) return;
  phase_ = Phase::kFinished;
  outcome_.mutable_finished();
}

void GroupRun::Drop(std::string_view reason, std::string_view detail) {
  if (finished()) return;
  phase_ = Phase::kFinished;
  outcome_.mutable_dropped()->set_reason(std::string(reason));
  outcome_.mutable_dropped()->set_detail(std::string(detail));
}

v1::Group GroupRun::TakeGroup() {
  v1::Group group;
  group.set_group_id(spec_.group_id);
  group.set_purpose(spec_.purpose);
  *group.mutable_prompt() = spec_.prompt;
  *group.mutable_sampling() = spec_.sampling;
  *group.mutable_outcome() = outcome_;
  // Dropped before all of it was there; a shutdown may fall between the last token and the next call.
  if (texts_.size() != spec_.num_samples) return group;
  for (uint32_t i = 0; i < spec_.num_samples; ++i) {
    v1::Trajectory* trajectory = group.add_trajectories();
    trajectory->set_index(i);
    trajectory->set_finish_reason(assembly_.samples()[i].finish_reason);
    trajectory->set_text(texts_[i]);
    v1::Segment* prompt = trajectory->add_segments();
    prompt->set_role(v1::SEGMENT_ROLE_PROMPT);
    *prompt->mutable_token_ids() = spec_.prompt.token_ids();
    *trajectory->add_segments() = assembly_.BuildSegment(i);
    trajectory->mutable_segments(1)->mutable_reference_logprobs()->Add(reference_[i].begin(),
                                                                       reference_[i].end());
    if (spec_.with_score) {
      FillReward(results_[i], trajectory->mutable_reward());
    } else {
      trajectory->mutable_reward()->set_value(0);
    }
  }
  return group;
}

}  // namespace rollcall::learner
