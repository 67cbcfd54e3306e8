#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "rollcall/v1/generator.pb.h"
#include "rollcall/v1/rollout.pb.h"
#include "services/learner/publish/published_versions.h"

namespace rollcall::learner {

// What a generator's answers are checked against.
struct AssemblyLimits {
  uint32_t num_samples = 1;
  uint32_t max_tokens = 1;
  uint32_t vocab_size = 0;
};

// Puts one group's completions together from Generate streams, possibly several: what a stream
// delivered before it failed is kept, and the next request carries on from there. Every message is
// checked (indices, offsets, equal columns, finite log-probs <= 0, published versions); nothing a
// generator sends is trusted. No I/O, no clock. Not thread-safe.
class GroupAssembly {
 public:
  struct Sample {
    std::vector<uint32_t> token_ids;
    std::vector<float> logprobs;           // one per token
    std::vector<float> sampling_logprobs;  // one per token, or empty: as logprobs
    std::vector<float> kept_log_mass;      // likewise, or empty: no one mass
    std::vector<uint64_t> policy_steps;    // one per token
    std::vector<bool> mixed_kv;            // one per token
    bool ended = false;
    v1::FinishReason finish_reason = v1::FINISH_REASON_UNSPECIFIED;
  };

  GroupAssembly(const AssemblyLimits& limits, const PublishedVersions* versions);

  // Opens a stream: fills request's `samples` with what is still to be made (left empty when that
  // is everything). The last token received of an unfinished sample is made again rather than sent
  // as part of the prefix: it may have been the one that ended the completion, and a prefix must
  // not. `min_version` is what the header must at least hold.
  void BeginStream(const v1::PolicyVersion& min_version, v1::GenerateRequest& request);

  // Takes one message of the open stream. INTERNAL: the generator broke its contract; the message
  // names the field, and everything this stream delivered is to be forgotten (Rollback).
  absl::Status OnMessage(const v1::GenerateResponse& message);

  // Forgets what the open stream delivered.
  void Rollback();
  // Forgets everything.
  void Reset();

  bool complete() const;
  // Whether any unfinished sample has tokens that a next request would send as a prefix.
  bool has_prefixes() const;
  // INTERNAL unless complete(): for a stream that ended with OK.
  absl::Status CheckComplete() const;

  const std::vector<Sample>& samples() const { return samples_; }
  const v1::NumericsFingerprint& numerics() const { return numerics_; }

  // The POLICY segment of one finished sample.
  v1::Segment BuildSegment(uint32_t index) const;

 private:
  absl::Status OnHeader(const v1::GenerateHeader& header);
  absl::Status OnDelta(const v1::SampleDelta& delta);
  absl::Status OnEnd(const v1::SampleEnd& end);
  absl::Status CheckLogProbs(const v1::SampleDelta& delta) const;
  absl::Status CheckSpans(const v1::SampleEnd& end, const Sample& sample) const;
  static void Append(const v1::SampleDelta& delta, Sample& sample);
  static void Truncate(Sample& sample, size_t tokens);

  const AssemblyLimits limits_;
  const PublishedVersions* const versions_;

  std::vector<Sample> samples_;
  v1::NumericsFingerprint numerics_;

  // The open stream.
  v1::PolicyVersion min_version_;
  bool header_seen_ = false;
  uint64_t header_step_ = 0;
  std::vector<size_t> stream_begin_;   // tokens each sample had when the stream was opened
  std::vector<bool> stream_expected_;  // samples the stream was asked for
};

}  // namespace rollcall::learner
