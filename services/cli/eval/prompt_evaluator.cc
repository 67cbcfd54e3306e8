#include "services/cli/eval/prompt_evaluator.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "common/rpc/status_conversion.h"
#include "services/cli/eval/verifier_spec.h"

namespace rollcall::cli {
namespace {

void SetDeadline(grpc::ClientContext& context, double seconds) {
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(seconds)));
}

// "stop_token".
std::string NameOf(v1::FinishReason reason) {
  return absl::AsciiStrToLower(absl::StripPrefix(v1::FinishReason_Name(reason), "FINISH_REASON_"));
}

// What a stream brought, by sample index; a sample has a finish reason once it ended.
absl::Status Collect(const v1::GenerateResponse& response, v1::VerifierGroup& group) {
  const auto count = static_cast<uint32_t>(group.samples_size());
  for (const v1::SampleDelta& delta : response.deltas()) {
    if (delta.index() >= count) return absl::InternalError("the generator sent an unasked sample");
    group.mutable_samples(static_cast<int>(delta.index()))
        ->mutable_token_ids()
        ->MergeFrom(delta.token_ids());
  }
  for (const v1::SampleEnd& end : response.ends()) {
    if (end.index() >= count) return absl::InternalError("the generator ended an unasked sample");
    group.mutable_samples(static_cast<int>(end.index()))->set_finish_reason(end.finish_reason());
  }
  return absl::OkStatus();
}

}  // namespace

PromptEvaluator::PromptEvaluator(const v1::RunConfig& config,
                                 std::shared_ptr<const text::Tokenizer> tokenizer,
                                 const std::shared_ptr<grpc::Channel>& generator,
                                 const std::shared_ptr<grpc::Channel>& reward)
    : config_(config),
      tokenizer_(std::move(tokenizer)),
      generator_(v1::Generator::NewStub(generator)),
      verifier_(v1::Verifier::NewStub(reward)) {}

v1::GenerateRequest PromptEvaluator::MakeRequest(uint64_t ordinal,
                                                 const v1::PromptRow& prompt) const {
  const v1::SamplingSection& sampling = config_.sampling();
  v1::GenerateRequest request;
  request.mutable_key()->set_run_seed(config_.seed());
  request.mutable_key()->set_purpose(v1::RANDOM_PURPOSE_EVALUATION);
  request.mutable_key()->set_group_id(ordinal);
  *request.mutable_prompt_token_ids() = prompt.token_ids();
  request.set_num_samples(config_.evaluation().samples_per_prompt());
  v1::SamplingParams& params = *request.mutable_sampling();
  params.set_temperature(config_.evaluation().has_temperature() ? config_.evaluation().temperature()
                                                                : sampling.temperature());
  params.set_top_k(sampling.top_k());
  params.set_top_p(sampling.top_p());
  params.set_min_p(sampling.min_p());
  params.set_max_tokens(sampling.max_tokens());
  params.set_min_tokens(sampling.min_tokens());
  *request.mutable_stop()->mutable_token_ids() = sampling.stop_token_ids();
  *request.mutable_stop()->mutable_strings() = sampling.stop();
  request.mutable_stop()->set_ignore_eos(sampling.ignore_eos());
  return request;
}

absl::StatusOr<v1::ScoreRequest> PromptEvaluator::Sample(uint64_t ordinal,
                                                         const v1::PromptRow& prompt,
                                                         const std::atomic<bool>& stop) const {
  v1::ScoreRequest scores;
  v1::VerifierGroup& group = *scores.add_groups();
  group.set_group_id(ordinal);
  v1::ChatMessage& message = *group.add_prompt_messages();
  message.set_role("user");
  message.set_content(prompt.text());
  group.set_prompt_text(prompt.text());
  *group.mutable_prompt_token_ids() = prompt.token_ids();
  *group.mutable_columns() = prompt.columns();
  const v1::GenerateRequest request = MakeRequest(ordinal, prompt);
  for (uint32_t i = 0; i < request.num_samples(); ++i) group.add_samples()->set_index(i);

  grpc::ClientContext context;
  SetDeadline(context, config_.rpc().generate_timeout());
  const auto reader = generator_->Generate(&context, request);
  absl::Status broken;
  for (v1::GenerateResponse response; reader->Read(&response);) {
    if (broken.ok()) broken = Collect(response, group);
    if (stop) broken = absl::CancelledError("interrupted");
    if (!broken.ok()) context.TryCancel();
  }
  const absl::Status ended = rpc::FromGrpc(reader->Finish());
  ROLLCALL_RETURN_IF_ERROR(broken);
  ROLLCALL_RETURN_IF_ERROR(ended);
  for (v1::VerifierSample& sample : *group.mutable_samples()) {
    if (sample.finish_reason() == v1::FINISH_REASON_UNSPECIFIED) {
      return absl::InternalError("the generator left a sample without an end");
    }
    const std::vector<uint32_t> ids(sample.token_ids().begin(), sample.token_ids().end());
    ROLLCALL_ASSIGN_OR_RETURN(*sample.mutable_text(),
                              tokenizer_->Decode(ids, /*skip_special=*/true));
  }
  return scores;
}

absl::StatusOr<v1::GroupResult> PromptEvaluator::Score(v1::ScoreRequest& request) const {
  const v1::VerifierGroup& group = request.groups(0);
  request.set_idempotency_key(absl::StrCat("eval-", group.group_id()));
  request.set_deadline_seconds(config_.rpc().score_timeout());
  grpc::ClientContext context;
  SetDeadline(context, config_.rpc().score_timeout());
  v1::ScoreResponse response;
  ROLLCALL_RETURN_IF_ERROR(rpc::FromGrpc(verifier_->Score(&context, request, &response)));
  if (response.groups_size() != 1 || response.groups(0).samples_size() != group.samples_size()) {
    return absl::InternalError("the reward service answered for other samples");
  }
  for (const v1::SampleResult& result : response.groups(0).samples()) {
    if (result.has_score() || result.has_abstain()) continue;
    const v1::Fault& fault = result.has_retry() ? result.retry() : result.error();
    return absl::UnavailableError(absl::StrCat("a verifier failed: ", fault.reason()));
  }
  return std::move(*response.mutable_groups(0));
}

absl::StatusOr<std::vector<EvaluatedSample>> PromptEvaluator::Evaluate(
    uint64_t ordinal, const v1::PromptRow& prompt, const std::atomic<bool>& stop) const {
  ROLLCALL_ASSIGN_OR_RETURN(v1::ScoreRequest request, Sample(ordinal, prompt, stop));
  ROLLCALL_ASSIGN_OR_RETURN(const v1::GroupResult result, Score(request));
  std::vector<EvaluatedSample> samples;
  for (int i = 0; i < result.samples_size(); ++i) {
    const v1::VerifierSample& made = request.groups(0).samples(i);
    const v1::Score& score = result.samples(i).score();
    EvaluatedSample& sample = samples.emplace_back();
    sample.prompt = ordinal;
    sample.sample = made.index();
    sample.text = made.text();
    sample.answer = AnswerOf(config_.reward(), score.detail(), made.text());
    if (result.samples(i).has_score()) sample.reward = score.value();
    sample.components.insert(score.components().begin(), score.components().end());
    sample.detail = score.detail();
    sample.tokens = static_cast<uint32_t>(made.token_ids_size());
    sample.finish_reason = NameOf(made.finish_reason());
  }
  return samples;
}

}  // namespace rollcall::cli
