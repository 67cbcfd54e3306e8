#include "services/learner/publish/weight_transfer.h"

#include <algorithm>
#include <set>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/status.h"
#include "common/rpc/status_conversion.h"

namespace rollcall::learner {
namespace {

// The deadlines that weights.proto suggests.
constexpr absl::Duration kStateTimeout = absl::Seconds(5);
constexpr absl::Duration kBeginTimeout = absl::Seconds(30);
constexpr absl::Duration kCommitTimeout = absl::Seconds(60);
constexpr absl::Duration kPushTimeout = absl::Seconds(60);
// The slowest link worth waiting for: a gigabyte takes 100 s more.
constexpr double kSlowestBytesPerSecond = 10e6;
// Large enough to amortise a message, small enough that many generators' buffers stay small; at
// most 4 MiB.
constexpr size_t kChunkBytes = 1 << 20;
// A hash that differs after two full repeats is no passing fault of the link.
constexpr int kTries = 3;

}  // namespace

absl::Status WeightTransfer::Call(absl::Duration timeout,
                                  const std::function<grpc::Status(grpc::ClientContext&)>& call) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  {
    absl::MutexLock lock(&mutex_);
    if (cancelled_) return absl::CancelledError("the learner is stopping");
    running_ = &context;
  }
  const grpc::Status status = call(context);
  absl::MutexLock lock(&mutex_);
  running_ = nullptr;
  return rpc::FromGrpc(status);
}

void WeightTransfer::Cancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  if (running_ != nullptr)
    running_->TryCancel();  // asynchronous, so it may be called under the lock
}

absl::StatusOr<v1::ServerState> WeightTransfer::GetState() {
  v1::ServerState state;
  ROLLCALL_RETURN_IF_ERROR(Call(kStateTimeout, [&](grpc::ClientContext& context) {
    return stub_->GetState(&context, v1::GetStateRequest(), &state);
  }));
  return state;
}

absl::Status WeightTransfer::Send(const PreparedVersion& version) {
  absl::Status status;
  for (int i = 0; i < kTries; ++i) {
    status = SendOnce(version);
    // A hash differed, bytes are missing, or the server restarted in between: begin again, which
    // tells what is there.
    const bool again = absl::IsDataLoss(status) || absl::IsNotFound(status) ||
                       (absl::IsFailedPrecondition(status) && !fenced_);
    if (!again) return status;
  }
  return status;
}

absl::Status WeightTransfer::SendOnce(const PreparedVersion& version) {
  v1::BeginTransferRequest request;
  *request.mutable_version() = version.version;
  *request.mutable_manifest() = version.manifest;
  request.mutable_stream();
  if (const auto& adapter = version.snapshot->adapter; adapter.has_value()) {
    request.mutable_adapter()->set_base_manifest_hash(adapter->base_manifest_hash);
    request.mutable_adapter()->set_adapter_config(adapter->config);
  }
  v1::BeginTransferResponse begun;
  const absl::Status status = Call(kBeginTimeout, [&](grpc::ClientContext& context) {
    return stub_->Begin(&context, request, &begun);
  });
  if (absl::IsAlreadyExists(status)) return absl::OkStatus();
  fenced_ = absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status);
  ROLLCALL_RETURN_IF_ERROR(Annotate(status, "Begin"));
  ROLLCALL_RETURN_IF_ERROR(Annotate(PushTensors(version, begun), "Push"));

  v1::CommitRequest commit;
  commit.set_transfer_id(begun.transfer_id());
  *commit.mutable_version() = version.version;
  v1::CommitResponse committed;
  return Annotate(Call(kCommitTimeout,
                       [&](grpc::ClientContext& context) {
                         return stub_->Commit(&context, commit, &committed);
                       }),
                  "Commit");
}

absl::Status WeightTransfer::PushTensors(const PreparedVersion& version,
                                         const v1::BeginTransferResponse& begun) {
  const std::set<uint32_t> complete(begun.complete_tensors().begin(),
                                    begun.complete_tensors().end());
  const absl::Duration timeout =
      kPushTimeout +
      absl::Seconds(static_cast<double>(version.TotalBytes()) / kSlowestBytesPerSecond);
  return Call(timeout, [&](grpc::ClientContext& context) {
    v1::PushResponse response;
    const auto writer = stub_->Push(&context, &response);
    v1::WeightChunk chunk;
    chunk.set_transfer_id(begun.transfer_id());
    const auto& tensors = version.snapshot->tensors;
    bool open = true;
    for (uint32_t i = 0; i < tensors.size() && open; ++i) {
      if (complete.contains(i)) continue;
      chunk.set_tensor_index(i);
      const std::vector<std::byte>& bytes = tensors[i].bytes;
      for (size_t offset = 0; offset < bytes.size() && open; offset += kChunkBytes) {
        chunk.set_offset(offset);
        chunk.set_data(bytes.data() + offset, std::min(kChunkBytes, bytes.size() - offset));
        open = writer->Write(chunk);
      }
    }
    writer->WritesDone();
    return writer->Finish();  // says why a Write failed
  });
}

}  // namespace rollcall::learner
