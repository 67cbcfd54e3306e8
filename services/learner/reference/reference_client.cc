#include "services/learner/reference/reference_client.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/retry_after.h"
#include "common/rpc/status_conversion.h"
#include "services/learner/reference/log_prob_answer.h"
#include "services/learner/reference/reference_cache.h"
#include "services/learner/rollout/retry.h"

namespace rollcall::learner {
namespace {

// One call: far below the contract's 1024 sequences and 16 MiB (at most 5 bytes a token), and small
// enough that several references find something to share.
constexpr size_t kCallSequences = 64;
constexpr size_t kCallTokens = size_t{1} << 18;

}  // namespace

ReferenceClient::ReferenceClient(std::vector<ReferencePeer> peers, std::string manifest_hash,
                                 const ReferenceClientOptions& options, Clock* clock)
    : peers_(std::move(peers)),
      manifest_hash_(std::move(manifest_hash)),
      options_(options),
      clock_(clock) {
  for (const ReferencePeer& peer : peers_) {
    stubs_.push_back(v1::LogProb::NewStub(peer.channel));
  }
}

std::vector<ReferenceClient::Part> ReferenceClient::Divide(
    std::span<const TrainSequence* const> sequences) {
  std::vector<Part> parts;
  size_t tokens = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const size_t length = sequences[i]->token_ids.size();
    if (parts.empty() || parts.back().count == kCallSequences || tokens + length > kCallTokens) {
      parts.push_back({.first = i, .count = 0});
      tokens = 0;
    }
    ++parts.back().count;
    tokens += length;
  }
  return parts;
}

absl::StatusOr<std::vector<std::vector<float>>> ReferenceClient::Score(
    std::span<const TrainSequence* const> sequences) {
  std::vector<std::vector<float>> logprobs(sequences.size());
  const std::vector<Part> parts = Divide(sequences);
  std::atomic<size_t> next = 0;
  std::vector<absl::Status> failures(std::min(peers_.size(), parts.size()));
  const auto work = [&](size_t peer) {
    for (size_t i = next++; i < parts.size(); i = next++) {
      const auto [first, count] = parts[i];
      failures[peer] = ScorePart(sequences.subspan(first, count), peer,
                                 std::span(logprobs).subspan(first, count));
      if (!failures[peer].ok()) {
        next = parts.size();
        return;
      }
    }
  };
  std::vector<std::thread> threads;
  for (size_t peer = 1; peer < failures.size(); ++peer) threads.emplace_back(work, peer);
  if (!failures.empty()) work(0);
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& failure : failures) ROLLCALL_RETURN_IF_ERROR(failure);
  return logprobs;
}

absl::Status ReferenceClient::ScorePart(std::span<const TrainSequence* const> sequences,
                                        size_t peer, std::span<std::vector<float>> logprobs) {
  v1::LogProbRequest request;
  request.set_temperature(1);
  request.set_manifest_hash(manifest_hash_);
  std::vector<size_t> tokens;
  for (const TrainSequence* sequence : sequences) {
    v1::TokenSequence* asked = request.add_sequences();
    asked->mutable_token_ids()->Add(sequence->token_ids.begin(), sequence->token_ids.end());
    asked->set_score_from(static_cast<uint32_t>(FirstScored(*sequence)));
    tokens.push_back(sequence->token_ids.size() - FirstScored(*sequence));
  }
  const absl::Time give_up = clock_->Now() + options_.stall_timeout;
  for (uint32_t failures = 0;; peer = (peer + 1) % peers_.size()) {
    v1::LogProbResponse response;
    absl::Duration pause;
    absl::Status status = Call(peer, request, response, &pause);
    if (status.ok()) status = CheckLogProbs(response, tokens);
    if (status.ok()) {
      for (size_t i = 0; i < sequences.size(); ++i) {
        const auto& answer = response.sequences(static_cast<int>(i)).logprobs();
        logprobs[i].assign(answer.begin(), answer.end());
      }
      return absl::OkStatus();
    }
    const absl::Status named =
        Annotate(status, absl::StrCat("the reference at ", peers_[peer].address));
    if (absl::IsCancelled(status)) return status;
    if (absl::IsFailedPrecondition(status) || !IsRetryable(status)) return named;
    if (IsBackPressure(status)) {
      if (clock_->Now() >= give_up) return named;
    } else {
      if (++failures >= options_.max_attempts) return named;
      pause = Backoff(failures, std::nullopt);
    }
    ROLLCALL_RETURN_IF_ERROR(Wait(pause));
  }
}

absl::Status ReferenceClient::Call(size_t peer, const v1::LogProbRequest& request,
                                   v1::LogProbResponse& response, absl::Duration* retry_after) {
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  context.set_deadline(absl::ToChronoTime(absl::Now() + options_.timeout));
  {
    absl::MutexLock lock(&mutex_);
    if (cancelled_) return absl::CancelledError("stopped");
    calls_.insert(&context);
  }
  const absl::Status status = rpc::FromGrpc(stubs_[peer]->Score(&context, request, &response));
  absl::MutexLock lock(&mutex_);
  calls_.erase(&context);
  if (cancelled_) return absl::CancelledError("stopped");
  // A reference that was cut off while it answered is a fault like any other.
  if (absl::IsCancelled(status)) return absl::UnavailableError(status.message());
  if (!status.ok()) *retry_after = Backoff(1, rpc::RetryAfter(context));
  return status;
}

absl::Status ReferenceClient::Wait(absl::Duration duration) {
  absl::MutexLock lock(&mutex_);
  clock_->AwaitWithDeadline(&mutex_, absl::Condition(&cancelled_), clock_->Now() + duration);
  return cancelled_ ? absl::CancelledError("stopped") : absl::OkStatus();
}

void ReferenceClient::Cancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  for (grpc::ClientContext* call : calls_) call->TryCancel();
}

}  // namespace rollcall::learner
