#include "services/cli/rlaif/generator_client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <numeric>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "common/config/sampling_request.h"
#include "common/rpc/health.h"
#include "common/rpc/status_conversion.h"

namespace rollcall::cli {
namespace {

constexpr absl::Duration kHealthTime = absl::Seconds(1);
constexpr absl::Duration kBetweenLooks = absl::Milliseconds(200);
// generator.proto: the most alternatives of a position.
constexpr uint32_t kMostAlternatives = 64;

bool WorthAnotherTry(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsResourceExhausted(status) ||
         absl::IsDeadlineExceeded(status) || absl::IsAborted(status);
}

v1::GenerateRequest JudgeRequest(std::span<const uint32_t> prompt) {
  v1::GenerateRequest request;
  request.mutable_key()->set_purpose(v1::RANDOM_PURPOSE_INTERACTIVE);
  request.mutable_prompt_token_ids()->Add(prompt.begin(), prompt.end());
  request.set_num_samples(1);
  // At temperature 0 nothing is drawn, and log-probs are those of temperature 1.
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_max_tokens(1);
  return request;
}

std::optional<double> LogProbIn(const v1::TokenAlternatives& alternatives, uint32_t token) {
  for (int i = 0; i < alternatives.token_ids_size(); ++i) {
    if (alternatives.token_ids(i) == token) return alternatives.logprobs(i);
  }
  return std::nullopt;
}

}  // namespace

// What one stream brought, by sample index.
struct GeneratorClient::Answer {
  struct Sample {
    std::vector<uint32_t> token_ids;
    std::optional<v1::SampleEnd> end;
    v1::TokenAlternatives first_alternatives;
  };
  std::vector<Sample> samples;
  std::vector<float> prompt_logprobs;

  absl::Status Take(const v1::GenerateResponse& response) {
    for (const v1::SampleDelta& delta : response.deltas()) {
      if (delta.index() >= samples.size()) return absl::InternalError("an unasked sample");
      Sample& sample = samples[delta.index()];
      if (sample.token_ids.empty() && delta.alternatives_size() > 0) {
        sample.first_alternatives = delta.alternatives(0);
      }
      sample.token_ids.insert(sample.token_ids.end(), delta.token_ids().begin(),
                              delta.token_ids().end());
    }
    for (const v1::SampleEnd& end : response.ends()) {
      if (end.index() >= samples.size()) return absl::InternalError("an unasked sample's end");
      samples[end.index()].end = end;
    }
    const auto& scores = response.prompt_logprobs().logprobs();
    prompt_logprobs.insert(prompt_logprobs.end(), scores.begin(), scores.end());
    return absl::OkStatus();
  }
};

GeneratorClient::GeneratorClient(const std::vector<std::shared_ptr<grpc::Channel>>& channels,
                                 std::shared_ptr<const text::Tokenizer> tokenizer,
                                 ActiveCalls& calls, const GeneratorClientOptions& options)
    : channels_(channels), tokenizer_(std::move(tokenizer)), calls_(calls), options_(options) {
  for (const auto& channel : channels_) stubs_.push_back(v1::Generator::NewStub(channel));
}

absl::StatusOr<GeneratorClient::Answer> GeneratorClient::AskOnce(
    size_t channel, const v1::GenerateRequest& request) const {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + options_.call_time));
  const ActiveCalls::Scope scope(calls_, &context);
  if (!scope.may_begin()) return absl::CancelledError("interrupted");
  Answer answer;
  answer.samples.resize(request.num_samples());
  absl::Status broken;
  const auto reader = stubs_[channel]->Generate(&context, request);
  for (v1::GenerateResponse response; reader->Read(&response);) {
    if (!broken.ok()) continue;
    broken = answer.Take(response);
    if (!broken.ok()) context.TryCancel();
  }
  const absl::Status ended = rpc::FromGrpc(reader->Finish());
  ROLLCALL_RETURN_IF_ERROR(Annotate(broken, "the generator sent"));
  ROLLCALL_RETURN_IF_ERROR(ended);
  for (const Answer::Sample& sample : answer.samples) {
    if (!sample.end) return absl::InternalError("the generator left a sample without an end");
  }
  return answer;
}

void GeneratorClient::AwaitRecovery(size_t channel) const {
  const absl::Time deadline = absl::Now() + options_.recovery_time;
  do {
    if (calls_.AwaitStop(kBetweenLooks)) return;
    if (rpc::CheckHealth(channels_[channel], "", absl::Now() + kHealthTime).value_or(false)) return;
  } while (absl::Now() < deadline);
}

absl::StatusOr<GeneratorClient::Answer> GeneratorClient::Ask(
    const v1::GenerateRequest& request) const {
  for (uint32_t attempt = 1;; ++attempt) {
    const size_t channel = next_++ % channels_.size();
    absl::StatusOr<Answer> answer = AskOnce(channel, request);
    if (answer.ok()) return answer;
    if (calls_.stopped()) return absl::CancelledError("interrupted");
    if (!WorthAnotherTry(answer.status())) return answer.status();
    if (attempt >= options_.attempts) {
      return Annotate(answer.status(), absl::StrCat("after ", attempt, " tries"));
    }
    AwaitRecovery(channel);
  }
}

absl::StatusOr<std::vector<Completion>> GeneratorClient::Sample(
    const v1::GenerateRequest& request) const {
  ROLLCALL_ASSIGN_OR_RETURN(const Answer answer, Ask(request));
  std::vector<Completion> completions;
  for (const Answer::Sample& sample : answer.samples) {
    Completion& completion = completions.emplace_back();
    completion.tokens = sample.end->num_tokens();
    completion.finish_reason = sample.end->finish_reason();
    std::span<const uint32_t> said = sample.token_ids;
    if (completion.finish_reason == v1::FINISH_REASON_STOP_TOKEN && !said.empty()) {
      said = said.first(said.size() - 1);
    }
    ROLLCALL_ASSIGN_OR_RETURN(completion.text, tokenizer_->Decode(said, /*skip_special=*/true));
    if (completion.finish_reason != v1::FINISH_REASON_STOP_STRING) continue;
    const auto index = static_cast<int>(sample.end->stop_string_index());
    if (index >= request.stop().strings_size()) {
      return absl::InternalError("the generator stopped at an unasked string");
    }
    const size_t at = completion.text.find(request.stop().strings(index));
    if (at != std::string::npos) completion.text.resize(at);
  }
  return completions;
}

absl::StatusOr<double> GeneratorClient::LogProbOf(std::span<const uint32_t> prompt,
                                                  std::span<const uint32_t> continuation) const {
  v1::GenerateRequest request = JudgeRequest(prompt);
  request.mutable_prompt_token_ids()->Add(continuation.begin(), continuation.end());
  request.mutable_sampling()->set_prompt_logprobs(true);
  ROLLCALL_ASSIGN_OR_RETURN(const Answer answer, Ask(request));
  const std::vector<float>& scores = answer.prompt_logprobs;
  if (scores.size() + 1 != prompt.size() + continuation.size()) {
    return absl::InternalError("the generator sent log-probs of another prompt");
  }
  return std::accumulate(scores.end() - static_cast<ptrdiff_t>(continuation.size()), scores.end(),
                         0.0);
}

absl::StatusOr<std::pair<double, double>> GeneratorClient::Compare(
    std::span<const uint32_t> prompt, std::span<const uint32_t> first,
    std::span<const uint32_t> second) const {
  if (first.size() == 1 && second.size() == 1) {
    // Two tokens that a judge means to say are among its likeliest, and one pass over the prompt brings both.
    v1::GenerateRequest request = JudgeRequest(prompt);
    request.mutable_sampling()->set_top_logprobs(kMostAlternatives);
    ROLLCALL_ASSIGN_OR_RETURN(const Answer answer, Ask(request));
    const v1::TokenAlternatives& alternatives = answer.samples[0].first_alternatives;
    const auto one = LogProbIn(alternatives, first[0]), other = LogProbIn(alternatives, second[0]);
    if (one && other) return std::pair(*one, *other);
  }
  ROLLCALL_ASSIGN_OR_RETURN(const double one, LogProbOf(prompt, first));
  ROLLCALL_ASSIGN_OR_RETURN(const double other, LogProbOf(prompt, second));
  return std::pair(one, other);
}

v1::GenerateRequest SampleRequestOf(const v1::SamplingSection& sampling,
                                    std::span<const uint32_t> prompt, uint32_t samples,
                                    uint64_t seed, uint64_t group_id) {
  v1::GenerateRequest request;
  request.mutable_key()->set_run_seed(seed);
  request.mutable_key()->set_purpose(v1::RANDOM_PURPOSE_ROLLOUT);
  request.mutable_key()->set_group_id(group_id);
  request.mutable_prompt_token_ids()->Add(prompt.begin(), prompt.end());
  request.set_num_samples(samples);
  *request.mutable_sampling() = config::SamplingParamsOf(sampling);
  *request.mutable_stop() = config::StopConditionsOf(sampling);
  return request;
}

}  // namespace rollcall::cli
