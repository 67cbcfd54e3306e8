#include "services/learner/rollout/group_assembly.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace rollcall::learner {
namespace {

// Written so that NaN fails.
bool IsLogProb(float value) { return std::isfinite(value) && value <= 0; }

absl::Status CheckColumn(const google::protobuf::RepeatedField<float>& column, int tokens,
                         const char* name, bool may_be_empty) {
  if (column.empty() && may_be_empty) return absl::OkStatus();
  if (column.size() != tokens) {
    return absl::InternalError(
        absl::StrCat(name, ": must have one entry per token (", tokens, "), got ", column.size()));
  }
  for (int i = 0; i < column.size(); ++i) {
    if (!IsLogProb(column[i])) {
      return absl::InternalError(
          absl::StrCat(name, "[", i, "]: must be finite and <= 0, got ", column[i]));
    }
  }
  return absl::OkStatus();
}

}  // namespace

GroupAssembly::GroupAssembly(const AssemblyLimits& limits, const PublishedVersions* versions)
    : limits_(limits), versions_(versions), samples_(limits.num_samples) {}

void GroupAssembly::BeginStream(const v1::PolicyVersion& min_version,
                                v1::GenerateRequest& request) {
  min_version_ = min_version;
  header_seen_ = false;
  stream_begin_.assign(samples_.size(), 0);
  stream_expected_.assign(samples_.size(), false);
  bool everything = true;
  for (Sample& sample : samples_) {
    if (!sample.ended && !sample.token_ids.empty()) Truncate(sample, sample.token_ids.size() - 1);
    everything &= !sample.ended && sample.token_ids.empty();
  }
  request.clear_samples();
  for (uint32_t i = 0; i < samples_.size(); ++i) {
    const Sample& sample = samples_[i];
    stream_begin_[i] = sample.token_ids.size();
    stream_expected_[i] = !sample.ended;
    if (everything || sample.ended) continue;
    v1::SampleRequest* part = request.add_samples();
    part->set_index(i);
    part->mutable_prefix_token_ids()->Add(sample.token_ids.begin(), sample.token_ids.end());
  }
}

absl::Status GroupAssembly::OnMessage(const v1::GenerateResponse& message) {
  if (message.has_header() == header_seen_) {
    return absl::InternalError(header_seen_ ? "header: came twice"
                                            : "header: the first message must carry it");
  }
  if (message.has_header()) {
    ROLLCALL_RETURN_IF_ERROR(OnHeader(message.header()));
  }
  for (int i = 0; i < message.deltas_size(); ++i) {
    ROLLCALL_RETURN_IF_ERROR(Annotate(OnDelta(message.deltas(i)), absl::StrCat("deltas[", i, "]")));
  }
  for (int i = 0; i < message.ends_size(); ++i) {
    ROLLCALL_RETURN_IF_ERROR(Annotate(OnEnd(message.ends(i)), absl::StrCat("ends[", i, "]")));
  }
  return absl::OkStatus();
}

absl::Status GroupAssembly::OnHeader(const v1::GenerateHeader& header) {
  const v1::PolicyVersion& version = header.version();
  if (version.run_id() != min_version_.run_id() || version.lineage() != min_version_.lineage() ||
      version.step() < min_version_.step()) {
    return absl::InternalError(
        absl::StrCat("header.version: must be step ", min_version_.step(), " or later of run ",
                     min_version_.run_id(), " lineage ", min_version_.lineage(), ", got step ",
                     version.step(), " of run ", version.run_id(), " lineage ", version.lineage()));
  }
  const std::optional<v1::PolicyVersion> published = versions_->Find(version.step());
  if (!published || published->manifest_hash() != version.manifest_hash()) {
    return absl::InternalError(absl::StrCat("header.version: the weights of step ", version.step(),
                                            " are not those that were published"));
  }
  header_seen_ = true;
  header_step_ = version.step();
  numerics_ = header.numerics();
  return absl::OkStatus();
}

absl::Status GroupAssembly::CheckLogProbs(const v1::SampleDelta& delta) const {
  const int tokens = delta.token_ids_size();
  ROLLCALL_RETURN_IF_ERROR(CheckColumn(delta.logprobs(), tokens, "logprobs", false));
  ROLLCALL_RETURN_IF_ERROR(
      CheckColumn(delta.sampling_logprobs(), tokens, "sampling_logprobs", true));
  return CheckColumn(delta.kept_log_mass(), tokens, "kept_log_mass", true);
}

absl::Status GroupAssembly::OnDelta(const v1::SampleDelta& delta) {
  if (delta.index() >= samples_.size() || !stream_expected_[delta.index()]) {
    return absl::InternalError(absl::StrCat("index: ", delta.index(), " was not asked for"));
  }
  Sample& sample = samples_[delta.index()];
  if (sample.ended) return absl::InternalError("comes after the sample's end");
  if (delta.offset() != sample.token_ids.size()) {
    return absl::InternalError(
        absl::StrCat("offset: must be ", sample.token_ids.size(), ", got ", delta.offset()));
  }
  if (sample.token_ids.size() + delta.token_ids_size() > limits_.max_tokens) {
    return absl::InternalError(
        absl::StrCat("token_ids: more than max_tokens (", limits_.max_tokens, ") were made"));
  }
  for (int i = 0; i < delta.token_ids_size(); ++i) {
    if (delta.token_ids(i) >= limits_.vocab_size) {
      return absl::InternalError(absl::StrCat("token_ids[", i, "]: must be < ", limits_.vocab_size,
                                              ", got ", delta.token_ids(i)));
    }
  }
  ROLLCALL_RETURN_IF_ERROR(CheckLogProbs(delta));
  if (delta.policy_step() < header_step_ || !versions_->Find(delta.policy_step())) {
    return absl::InternalError(absl::StrCat("policy_step: ", delta.policy_step(),
                                            " is no version that this stream can have used"));
  }
  Append(delta, sample);
  return absl::OkStatus();
}

void GroupAssembly::Append(const v1::SampleDelta& delta, Sample& sample) {
  const size_t before = sample.token_ids.size();
  sample.token_ids.insert(sample.token_ids.end(), delta.token_ids().begin(),
                          delta.token_ids().end());
  sample.logprobs.insert(sample.logprobs.end(), delta.logprobs().begin(), delta.logprobs().end());
  sample.policy_steps.resize(sample.token_ids.size(), delta.policy_step());
  sample.mixed_kv.resize(sample.token_ids.size(), delta.mixed_kv());
  // A sample has each of the two columns for all of its tokens or for none; where a part came
  // without, tokens were sampled from the model's own distribution there.
  if (!delta.sampling_logprobs().empty() && sample.sampling_logprobs.empty()) {
    sample.sampling_logprobs.assign(sample.logprobs.begin(), sample.logprobs.begin() + before);
  }
  if (!delta.sampling_logprobs().empty()) {
    sample.sampling_logprobs.insert(sample.sampling_logprobs.end(),
                                    delta.sampling_logprobs().begin(),
                                    delta.sampling_logprobs().end());
  } else if (!sample.sampling_logprobs.empty()) {
    sample.sampling_logprobs.insert(sample.sampling_logprobs.end(), delta.logprobs().begin(),
                                    delta.logprobs().end());
  }
  // Where penalties reshape the distribution the mass has no column, though the other one is there.
  if (!delta.kept_log_mass().empty() || !sample.kept_log_mass.empty()) {
    sample.kept_log_mass.resize(before, 0.0f);
    sample.kept_log_mass.insert(sample.kept_log_mass.end(), delta.kept_log_mass().begin(),
                                delta.kept_log_mass().end());
    sample.kept_log_mass.resize(sample.token_ids.size(), 0.0f);
  }
}

absl::Status GroupAssembly::OnEnd(const v1::SampleEnd& end) {
  if (end.index() >= samples_.size() || !stream_expected_[end.index()]) {
    return absl::InternalError(absl::StrCat("index: ", end.index(), " was not asked for"));
  }
  Sample& sample = samples_[end.index()];
  if (sample.ended) return absl::InternalError("the sample has already ended");
  if (sample.token_ids.empty() || end.num_tokens() != sample.token_ids.size()) {
    return absl::InternalError(absl::StrCat("num_tokens: must be the ", sample.token_ids.size(),
                                            " tokens that came, at least 1, got ",
                                            end.num_tokens()));
  }
  if (end.finish_reason() == v1::FINISH_REASON_UNSPECIFIED ||
      !v1::FinishReason_IsValid(end.finish_reason())) {
    return absl::InternalError(
        absl::StrCat("finish_reason: ", static_cast<int>(end.finish_reason()), " is none"));
  }
  ROLLCALL_RETURN_IF_ERROR(CheckSpans(end, sample));
  sample.ended = true;
  sample.finish_reason = end.finish_reason();
  return absl::OkStatus();
}

absl::Status GroupAssembly::CheckSpans(const v1::SampleEnd& end, const Sample& sample) const {
  size_t position = stream_begin_[end.index()];
  for (int i = 0; i < end.version_spans_size(); ++i) {
    const v1::VersionSpan& span = end.version_spans(i);
    if (span.begin() != position || span.end() <= span.begin() ||
        span.end() > sample.token_ids.size()) {
      return absl::InternalError(absl::StrCat("version_spans[", i, "]: [", span.begin(), ", ",
                                              span.end(), ") does not continue at ", position));
    }
    const std::optional<v1::PolicyVersion> published = versions_->Find(span.version().step());
    if (!published || published->manifest_hash() != span.version().manifest_hash() ||
        published->lineage() != span.version().lineage() ||
        published->run_id() != span.version().run_id()) {
      return absl::InternalError(
          absl::StrCat("version_spans[", i, "].version: was never published"));
    }
    for (; position < span.end(); ++position) {
      if (sample.policy_steps[position] != span.version().step()) {
        return absl::InternalError(absl::StrCat("version_spans[", i, "]: token ", position,
                                                " came under step ",
                                                sample.policy_steps[position]));
      }
      if (sample.mixed_kv[position] != span.mixed_kv()) {
        return absl::InternalError(
            absl::StrCat("version_spans[", i, "].mixed_kv: is not what token ", position, " had"));
      }
    }
  }
  if (position != sample.token_ids.size()) {
    return absl::InternalError(
        absl::StrCat("version_spans: end at token ", position, " of ", sample.token_ids.size()));
  }
  return absl::OkStatus();
}

void GroupAssembly::Truncate(Sample& sample, size_t tokens) {
  sample.token_ids.resize(tokens);
  sample.logprobs.resize(tokens);
  sample.policy_steps.resize(tokens);
  sample.mixed_kv.resize(tokens);
  if (sample.sampling_logprobs.size() > tokens) sample.sampling_logprobs.resize(tokens);
  if (sample.kept_log_mass.size() > tokens) sample.kept_log_mass.resize(tokens);
}

void GroupAssembly::Rollback() {
  for (size_t i = 0; i < samples_.size() && i < stream_begin_.size(); ++i) {
    if (!stream_expected_[i]) continue;
    Truncate(samples_[i], stream_begin_[i]);
    samples_[i].ended = false;
    samples_[i].finish_reason = v1::FINISH_REASON_UNSPECIFIED;
  }
}

void GroupAssembly::Reset() {
  samples_.assign(samples_.size(), Sample());
  stream_expected_.assign(samples_.size(), false);
}

bool GroupAssembly::complete() const {
  return std::all_of(samples_.begin(), samples_.end(), [](const Sample& s) { return s.ended; });
}

bool GroupAssembly::has_prefixes() const {
  return std::any_of(samples_.begin(), samples_.end(), [](const Sample& sample) {
    return !sample.ended && !sample.token_ids.empty();
  });
}

absl::Status GroupAssembly::CheckComplete() const {
  for (size_t i = 0; i < samples_.size(); ++i) {
    if (!samples_[i].ended) {
      return absl::InternalError(absl::StrCat("the stream closed before sample ", i, " ended"));
    }
  }
  return absl::OkStatus();
}

v1::Segment GroupAssembly::BuildSegment(uint32_t index) const {
  const Sample& sample = samples_[index];
  v1::Segment segment;
  segment.set_role(v1::SEGMENT_ROLE_POLICY);
  segment.mutable_token_ids()->Add(sample.token_ids.begin(), sample.token_ids.end());
  segment.mutable_logprobs()->Add(sample.logprobs.begin(), sample.logprobs.end());
  segment.mutable_sampling_logprobs()->Add(sample.sampling_logprobs.begin(),
                                           sample.sampling_logprobs.end());
  segment.mutable_kept_log_mass()->Add(sample.kept_log_mass.begin(), sample.kept_log_mass.end());
  *segment.mutable_numerics() = numerics_;
  for (uint32_t i = 0; i < sample.policy_steps.size(); ++i) {
    v1::VersionSpan* last = segment.version_spans().empty()
                                ? nullptr
                                : segment.mutable_version_spans(segment.version_spans_size() - 1);
    if (last == nullptr || last->version().step() != sample.policy_steps[i] ||
        last->mixed_kv() != sample.mixed_kv[i]) {
      last = segment.add_version_spans();
      last->set_begin(i);
      last->set_mixed_kv(sample.mixed_kv[i]);
      *last->mutable_version() = *versions_->Find(sample.policy_steps[i]);
    }
    last->set_end(i + 1);
  }
  return segment;
}

}  // namespace rollcall::learner
