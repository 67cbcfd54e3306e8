#include "services/generator/engine/active_request.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/philox.h"
#include "common/base/status.h"

namespace rollcall::generator {
namespace {

v1::FinishReason FinishReasonOf(StopCause::Kind kind) {
  switch (kind) {
    case StopCause::Kind::kToken:
      return v1::FINISH_REASON_STOP_TOKEN;
    case StopCause::Kind::kString:
      return v1::FINISH_REASON_STOP_STRING;
    case StopCause::Kind::kLength:
      return v1::FINISH_REASON_LENGTH;
    case StopCause::Kind::kContext:
      return v1::FINISH_REASON_CONTEXT;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

bool SameVersion(const v1::PolicyVersion& a, const v1::PolicyVersion& b) {
  return a.step() == b.step() && a.lineage() == b.lineage() && a.run_id() == b.run_id() &&
         a.manifest_hash() == b.manifest_hash();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ActiveRequest>> ActiveRequest::Create(
    GenerationRequest request, const text::Tokenizer* tokenizer,
    std::shared_ptr<RequestSink> sink) {
  std::unique_ptr<ActiveRequest> active(new ActiveRequest(std::move(request), std::move(sink)));
  const GenerationRequest& spec = active->request_;
  active->prompt_complete_ = !spec.prompt_logprobs || spec.prompt.size() == 1;
  const bool decodes = spec.return_text || !spec.stop.strings.empty();
  for (const GenerationRequest::Sample& wanted : spec.samples) {
    Sample sample{.index = wanted.index,
                  .completion = wanted.prefix,
                  .tracker = StopTracker(&spec.stop),
                  .decoder = std::nullopt,
                  .version_spans = {}};
    if (decodes) sample.decoder = tokenizer->NewStream(/*skip_special=*/true);
    for (const uint32_t token : wanted.prefix) {
      std::string text;
      if (decodes) {
        ROLLCALL_ASSIGN_OR_RETURN(text, sample.decoder->Step(token));
      }
      if (sample.tracker.Append(token, text).has_value()) {
        return absl::InvalidArgumentError(
            absl::StrCat("samples.prefix_token_ids: the prefix of sample ", wanted.index,
                         " ends its completion at its token ", sample.tracker.num_tokens() - 1));
      }
    }
    active->samples_.push_back(std::move(sample));
  }
  return active;
}

GroupSpec ActiveRequest::group_spec() const {
  const uint32_t prompt = static_cast<uint32_t>(request_.prompt.size());
  const uint32_t longest = std::min(request_.stop.max_tokens, request_.stop.max_completion);
  GroupSpec spec{.prompt_tokens = prompt, .whole_prompt = request_.prompt_logprobs, .samples = {}};
  for (const Sample& sample : samples_) {
    spec.samples.push_back({.prefix_tokens = static_cast<uint32_t>(sample.completion.size()),
                            .max_total_tokens = prompt + longest});
  }
  return spec;
}

void ActiveRequest::AppendTokens(uint32_t slot, uint32_t begin, uint32_t count,
                                 std::vector<uint32_t>* tokens) const {
  const std::vector<uint32_t>& prompt = request_.prompt;
  const std::vector<uint32_t>& completion = samples_[slot].completion;
  for (uint32_t position = begin; position < begin + count; ++position) {
    tokens->push_back(position < prompt.size() ? prompt[position]
                                               : completion[position - prompt.size()]);
  }
}

double ActiveRequest::UniformAt(uint32_t slot, uint32_t position) const {
  return UniformFor(request_.key.run_seed(), static_cast<uint32_t>(request_.key.purpose()),
                    request_.key.group_id(), samples_[slot].index, position);
}

ActiveRequest::PromptRows ActiveRequest::WantedPromptRows(uint32_t begin, uint32_t end) const {
  if (prompt_complete_) return {};
  const uint32_t scored = static_cast<uint32_t>(prompt_logprobs_.size());
  const uint32_t last = std::min(end, static_cast<uint32_t>(request_.prompt.size()) - 1);
  if (begin > scored || last <= scored) return {};
  return {.first = scored, .count = last - scored};
}

void ActiveRequest::AppendPromptLogProbs(std::span<const float> logprobs,
                                         const v1::PolicyVersion& version) {
  prompt_logprobs_.insert(prompt_logprobs_.end(), logprobs.begin(), logprobs.end());
  if (prompt_logprobs_.size() + 1 < request_.prompt.size()) return;
  prompt_complete_ = true;
  output_.prompt_logprobs = std::exchange(prompt_logprobs_, {});
  output_.prompt_policy_step = version.step();
}

void ActiveRequest::RestartPromptLogProbs() { prompt_logprobs_.clear(); }

absl::StatusOr<bool> ActiveRequest::Append(uint32_t slot, Drawn drawn,
                                           const v1::PolicyVersion& version) {
  const SampledToken& sampled = drawn.sampled;
  Sample& sample = samples_[slot];
  const uint32_t offset = static_cast<uint32_t>(sample.completion.size());
  std::string text;
  if (sample.decoder.has_value()) {
    ROLLCALL_ASSIGN_OR_RETURN(text, sample.decoder->Step(sampled.token));
  }
  sample.completion.push_back(sampled.token);
  if (sample.version_spans.empty() || sample.version_spans.back().mixed_kv() != drawn.mixed_kv ||
      !SameVersion(sample.version_spans.back().version(), version)) {
    v1::VersionSpan span;
    span.set_begin(offset);
    *span.mutable_version() = version;
    span.set_mixed_kv(drawn.mixed_kv);
    sample.version_spans.push_back(std::move(span));
  }
  sample.version_spans.back().set_end(offset + 1);
  const std::optional<StopCause> cause = sample.tracker.Append(sampled.token, text);
  if (cause.has_value() && sample.decoder.has_value()) {
    ROLLCALL_ASSIGN_OR_RETURN(const std::string held, sample.decoder->Flush());
    text += held;
  }
  output_.tokens.push_back({.index = sample.index,
                            .offset = offset,
                            .token = sampled.token,
                            .logprob = drawn.logprob,
                            .sampling_logprob = sampled.sampling_logprob,
                            .kept_log_mass = sampled.kept_log_mass,
                            .policy_step = version.step(),
                            .mixed_kv = drawn.mixed_kv,
                            .text = request_.return_text ? std::move(text) : std::string(),
                            .alternatives = std::move(drawn.alternatives)});
  if (cause.has_value()) End(sample, *cause);
  return cause.has_value();
}

void ActiveRequest::End(Sample& sample, const StopCause& cause) {
  v1::SampleEnd end;
  end.set_index(sample.index);
  end.set_finish_reason(FinishReasonOf(cause.kind));
  end.set_num_tokens(static_cast<uint32_t>(sample.completion.size()));
  for (v1::VersionSpan& span : sample.version_spans) *end.add_version_spans() = std::move(span);
  if (cause.kind == StopCause::Kind::kToken) end.set_stop_token_id(cause.token_id);
  if (cause.kind == StopCause::Kind::kString) end.set_stop_string_index(cause.string_index);
  output_.ends.push_back(std::move(end));
  ++ended_;
}

}  // namespace rollcall::generator
