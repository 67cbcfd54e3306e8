#include "services/learner/trainer/process_group.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/tensor.h>

#include <cstring>

#include "common/base/status.h"

namespace rollcall::learner {
namespace {

at::Tensor BytesTensor(size_t count) {
  return at::empty({static_cast<int64_t>(count)}, at::TensorOptions().dtype(at::kByte));
}

at::Tensor AsTensor(std::string_view bytes) {
  const at::Tensor tensor = BytesTensor(bytes.size());
  if (!bytes.empty()) std::memcpy(tensor.mutable_data_ptr<uint8_t>(), bytes.data(), bytes.size());
  return tensor;
}

std::string AsString(const at::Tensor& tensor) {
  return std::string(reinterpret_cast<const char*>(tensor.const_data_ptr<uint8_t>()),
                     static_cast<size_t>(tensor.numel()));
}

}  // namespace

absl::Status ProcessGroup::AllReduceSum(at::Tensor& tensor) {
  if (size() == 1) return absl::OkStatus();
  const at::NoGradGuard no_grad;
  const at::Tensor own = tensor.contiguous();
  const std::vector<at::Tensor> to(static_cast<size_t>(size()), own);
  std::vector<at::Tensor> from;
  for (int peer = 0; peer < size(); ++peer) from.push_back(at::empty_like(own));
  ROLLCALL_RETURN_IF_ERROR(Exchange(to, from));
  tensor.copy_(from[0]);
  for (size_t peer = 1; peer < from.size(); ++peer) tensor.add_(from[peer]);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ProcessGroup::AllGather(std::string_view own) {
  if (size() == 1) return std::vector<std::string>{std::string(own)};
  const auto ranks = static_cast<size_t>(size());
  std::vector<at::Tensor> lengths;
  for (size_t peer = 0; peer < ranks; ++peer)
    lengths.push_back(at::tensor(std::vector<int64_t>{0}));
  ROLLCALL_RETURN_IF_ERROR(
      Exchange(std::vector<at::Tensor>(
                   ranks, at::tensor(std::vector<int64_t>{static_cast<int64_t>(own.size())})),
               lengths));
  std::vector<at::Tensor> from;
  for (const at::Tensor& length : lengths) {
    from.push_back(BytesTensor(static_cast<size_t>(length.item<int64_t>())));
  }
  ROLLCALL_RETURN_IF_ERROR(Exchange(std::vector<at::Tensor>(ranks, AsTensor(own)), from));
  std::vector<std::string> gathered;
  for (const at::Tensor& bytes : from) gathered.push_back(AsString(bytes));
  return gathered;
}

absl::Status ProcessGroup::Broadcast(std::string& bytes) {
  if (size() == 1) return absl::OkStatus();
  ROLLCALL_ASSIGN_OR_RETURN(std::vector<std::string> gathered,
                            AllGather(rank() == 0 ? std::string_view(bytes) : ""));
  bytes = std::move(gathered[0]);
  return absl::OkStatus();
}

absl::Status ProcessGroup::Broadcast(const at::Tensor& tensor) {
  if (size() == 1) return absl::OkStatus();
  const at::NoGradGuard no_grad;
  const auto ranks = static_cast<size_t>(size());
  const at::Tensor nothing = at::empty({0}, tensor.options());
  const at::Tensor received = at::empty_like(tensor);
  std::vector<at::Tensor> from(ranks, nothing);
  from[0] = received;
  ROLLCALL_RETURN_IF_ERROR(
      Exchange(std::vector<at::Tensor>(ranks, rank() == 0 ? tensor : nothing), from));
  tensor.copy_(received);
  return absl::OkStatus();
}

absl::Status SingleProcess::Exchange(const std::vector<at::Tensor>& to,
                                     const std::vector<at::Tensor>& from) {
  const at::NoGradGuard no_grad;
  from[0].copy_(to[0]);
  return absl::OkStatus();
}

}  // namespace rollcall::learner
