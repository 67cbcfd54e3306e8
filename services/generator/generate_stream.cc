#include "services/generator/generate_stream.h"

#include <algorithm>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/rpc/status_conversion.h"

namespace rollcall::generator {
namespace {

// A message is closed at this size: under the contract's 1 MiB with room for one more step of 1024
// samples.
constexpr size_t kMessageBytes = size_t{512} << 10;
// A token with its three floats, and the fixed part of a delta or an end, at most.
constexpr size_t kTokenBytes = 5 + 3 * 4;
constexpr size_t kDeltaBytes = 56;
// An alternative, and the fixed part of a list of them.
constexpr size_t kAlternativeBytes = 5 + 4;
constexpr size_t kAlternativesBytes = 12;
// Log-probs of prompt tokens in one message: 256 KiB of them.
constexpr size_t kPromptPiece = size_t{1} << 16;
constexpr size_t kEndBytes = 64;
constexpr size_t kSpanBytes = 256;

}  // namespace

std::shared_ptr<GenerateStream> GenerateStream::Create(Engine* engine,
                                                       grpc::CallbackServerContext* context,
                                                       v1::NumericsFingerprint numerics) {
  std::shared_ptr<GenerateStream> stream(new GenerateStream(engine, context, std::move(numerics)));
  stream->self_ = stream;
  return stream;
}

void GenerateStream::Start(absl::StatusOr<GenerationRequest> request) {
  if (!request.ok()) {
    OnDone(request.status());
    return;
  }
  reshapes_ = request->sampling.reshapes();
  keeps_mass_ = request->sampling.keeps_mass();
  has_alternatives_ = request->top_logprobs > 0;
  const absl::StatusOr<Engine::RequestId> id = engine_->Submit(*std::move(request), self_);
  if (!id.ok()) {
    OnDone(id.status());
    return;
  }
  bool abandoned = false;
  {
    absl::MutexLock lock(&mutex_);
    request_id_ = *id;
    abandoned = abandoned_;
  }
  if (abandoned) engine_->Cancel(*id);
}

void GenerateStream::OnAdmitted(const v1::PolicyVersion& version) {
  {
    absl::MutexLock lock(&mutex_);
    v1::GenerateHeader& header = *RoomyMessage().response.mutable_header();
    *header.mutable_version() = version;
    *header.mutable_numerics() = numerics_;
  }
  Pump();
}

void GenerateStream::OnOutput(RequestOutput output) {
  {
    absl::MutexLock lock(&mutex_);
    if (abandoned_) return;
    AddPromptLogProbs(output);
    for (TokenOutput& token : output.tokens) AddToken(token);
    for (v1::SampleEnd& end : output.ends) {
      Message& message = RoomyMessage();
      message.bytes += kEndBytes + kSpanBytes * static_cast<size_t>(end.version_spans_size());
      *message.response.add_ends() = std::move(end);
    }
  }
  Pump();
}

void GenerateStream::OnDone(absl::Status status) {
  {
    absl::MutexLock lock(&mutex_);
    result_ = std::move(status);
  }
  Pump();
}

GenerateStream::Message& GenerateStream::RoomyMessage() {
  if (pending_.empty() || pending_.back().bytes >= kMessageBytes) pending_.emplace_back();
  return pending_.back();
}

void GenerateStream::AddPromptLogProbs(const RequestOutput& output) {
  const std::span<const float> all = output.prompt_logprobs;
  for (size_t begin = 0; begin < all.size(); begin += kPromptPiece) {
    const auto piece = all.subspan(begin, std::min(kPromptPiece, all.size() - begin));
    if (pending_.empty() || pending_.back().response.has_prompt_logprobs()) pending_.emplace_back();
    Message& message = RoomyMessage();
    v1::PromptLogprobs& logprobs = *message.response.mutable_prompt_logprobs();
    logprobs.set_offset(static_cast<uint32_t>(begin + 1));
    logprobs.mutable_logprobs()->Add(piece.begin(), piece.end());
    logprobs.set_policy_step(output.prompt_policy_step);
    message.bytes += kDeltaBytes + piece.size_bytes();
  }
}

void GenerateStream::AddToken(TokenOutput& token) {
  Message& message = RoomyMessage();
  v1::SampleDelta* delta = nullptr;
  const auto known = message.delta_of.find(token.index);
  if (known != message.delta_of.end()) {
    v1::SampleDelta* newest = message.response.mutable_deltas(known->second);
    if (newest->policy_step() == token.policy_step && newest->mixed_kv() == token.mixed_kv) {
      delta = newest;
    }
  }
  if (delta == nullptr) {
    message.delta_of[token.index] = message.response.deltas_size();
    delta = message.response.add_deltas();
    delta->set_index(token.index);
    delta->set_offset(token.offset);
    delta->set_policy_step(token.policy_step);
    delta->set_mixed_kv(token.mixed_kv);
    message.bytes += kDeltaBytes;
  }
  delta->add_token_ids(token.token);
  delta->add_logprobs(token.logprob);
  if (reshapes_) delta->add_sampling_logprobs(token.sampling_logprob);
  if (keeps_mass_) delta->add_kept_log_mass(token.kept_log_mass);
  delta->mutable_text()->append(token.text);
  message.bytes += kTokenBytes + token.text.size();
  if (has_alternatives_) {
    message.bytes += kAlternativesBytes +
                     kAlternativeBytes * static_cast<size_t>(token.alternatives.token_ids_size());
    *delta->add_alternatives() = std::move(token.alternatives);
  }
}

void GenerateStream::OnWriteDone(bool ok) {
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
  }
  if (!ok) {
    Abandon();
  } else {
    Pump();
  }
}

void GenerateStream::OnCancel() { Abandon(); }

void GenerateStream::Abandon() {
  std::optional<Engine::RequestId> id;
  {
    absl::MutexLock lock(&mutex_);
    if (!std::exchange(abandoned_, true)) id = request_id_;
    pending_.clear();
  }
  if (id.has_value()) engine_->Cancel(*id);
  Pump();
}

void GenerateStream::Pump() {
  absl::Status status;
  bool write = false;
  bool finish = false;
  {
    absl::MutexLock lock(&mutex_);
    if (finished_ || writing_) return;
    if (abandoned_) {
      finish = true;
      status = absl::CancelledError("the call was cancelled");
    } else {
      if (!pending_.empty()) {
        in_flight_ = std::move(pending_.front().response);
        pending_.pop_front();
        write = writing_ = true;
      }
      if (result_.has_value() && pending_.empty()) {
        finish = true;
        status = *result_;
      }
    }
    finished_ = finish;
  }
  // Only the one thread that set writing_ or finished_ gets here with something to do.
  if (write && finish) {
    StartWriteAndFinish(&in_flight_, grpc::WriteOptions(), FinalStatus(status));
  } else if (write) {
    StartWrite(&in_flight_);
  } else if (finish) {
    Finish(FinalStatus(status));
  }
}

grpc::Status GenerateStream::FinalStatus(const absl::Status& status) {
  if (absl::IsResourceExhausted(status)) {
    const int64_t milliseconds = absl::ToInt64Milliseconds(engine_->state().retry_after);
    context_->AddTrailingMetadata("retry-after-ms", absl::StrCat(milliseconds));
  }
  return rpc::ToGrpc(status);
}

void GenerateStream::OnDone() { self_.reset(); }

}  // namespace rollcall::generator
