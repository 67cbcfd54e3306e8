#include "services/learner/trainer/flat_shards.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <numeric>

#include "common/base/status.h"

namespace rollcall::learner {
namespace {

// Ranges begin at multiples of this many elements: whole vectors for the elementwise kernels.
constexpr int64_t kAlignment = 16;
// Elements of one rank's range in one exchange: 16 MiB of float32, far above the cost of a message
// and far below that of the weights.
constexpr int64_t kWindow = int64_t{4} << 20;

using Pieces = std::vector<FlatShards::Piece>;

// The pieces laid end to end; `like` says of what kind an empty result is.
at::Tensor Join(std::span<const at::Tensor> tensors, const Pieces& pieces, const at::Tensor& like) {
  if (pieces.empty()) return at::empty({0}, like.options());
  std::vector<at::Tensor> parts;
  for (const FlatShards::Piece& piece : pieces) {
    parts.push_back(tensors[piece.tensor].detach().reshape({-1}).slice(0, piece.begin, piece.end));
  }
  return at::cat(parts);
}

void Spread(const at::Tensor& flat, const Pieces& pieces, std::span<const at::Tensor> tensors) {
  int64_t at = 0;
  for (const FlatShards::Piece& piece : pieces) {
    const int64_t count = piece.end - piece.begin;
    View(tensors[piece.tensor], piece).copy_(flat.slice(0, at, at + count));
    at += count;
  }
}

// One exchange of a collective: of every rank's range the elements [begin(rank), end(rank)).
class Window {
 public:
  Window(const FlatShards& shards, int64_t number) : shards_(shards), number_(number) {}

  int64_t begin(int rank) const { return std::min(number_ * kWindow, shards_.size(rank)); }
  int64_t end(int rank) const { return std::min((number_ + 1) * kWindow, shards_.size(rank)); }
  int64_t size(int rank) const { return end(rank) - begin(rank); }
  Pieces Of(int rank) const { return shards_.Pieces(rank, begin(rank), end(rank)); }

 private:
  const FlatShards& shards_;
  const int64_t number_;
};

template <typename Fn>
absl::Status ForWindows(const FlatShards& shards, const Fn& exchange) {
  const at::NoGradGuard no_grad;
  int64_t longest = 0;
  for (int rank = 0; rank < shards.ranks(); ++rank) {
    longest = std::max(longest, shards.size(rank));
  }
  for (int64_t number = 0; number * kWindow < longest; ++number) {
    ROLLCALL_RETURN_IF_ERROR(exchange(Window(shards, number)));
  }
  return absl::OkStatus();
}

at::Tensor Buffer(int64_t elements, const at::Tensor& like) {
  return at::empty({elements}, like.options().requires_grad(false));
}

}  // namespace

FlatShards::FlatShards(std::vector<int64_t> counts, int ranks) : counts_(std::move(counts)) {
  const int64_t total = std::accumulate(counts_.begin(), counts_.end(), int64_t{0});
  const int64_t units = (total + kAlignment - 1) / kAlignment;
  for (int rank = 0; rank <= ranks; ++rank) {
    bounds_.push_back(std::min(total, units * rank / ranks * kAlignment));
  }
}

int64_t FlatShards::size(int rank) const {
  const auto r = static_cast<size_t>(rank);
  return bounds_[r + 1] - bounds_[r];
}

std::vector<FlatShards::Piece> FlatShards::Pieces(int rank, int64_t begin, int64_t end) const {
  begin += bounds_[static_cast<size_t>(rank)];
  end += bounds_[static_cast<size_t>(rank)];
  std::vector<Piece> pieces;
  int64_t first = 0;
  for (size_t i = 0; i < counts_.size() && first < end; ++i) {
    const int64_t from = std::max(begin, first), to = std::min(end, first + counts_[i]);
    if (from < to) pieces.push_back({.tensor = i, .begin = from - first, .end = to - first});
    first += counts_[i];
  }
  return pieces;
}

at::Tensor View(const at::Tensor& tensor, const FlatShards::Piece& piece) {
  return tensor.detach().view({-1}).slice(0, piece.begin, piece.end);
}

absl::StatusOr<at::Tensor> ReduceScatter(ProcessGroup& group, const FlatShards& shards,
                                         std::span<const at::Tensor> tensors) {
  const int rank = group.rank();
  const at::Tensor sum = Buffer(shards.size(rank), tensors[0]);
  ROLLCALL_RETURN_IF_ERROR(ForWindows(shards, [&](const Window& window) -> absl::Status {
    std::vector<at::Tensor> to, from;
    for (int peer = 0; peer < group.size(); ++peer) {
      to.push_back(Join(tensors, window.Of(peer), sum));
      from.push_back(Buffer(window.size(rank), sum));
    }
    ROLLCALL_RETURN_IF_ERROR(group.Exchange(to, from));
    const at::Tensor own = sum.slice(0, window.begin(rank), window.end(rank));
    own.copy_(from[0]);
    for (size_t peer = 1; peer < from.size(); ++peer) own.add_(from[peer]);
    return absl::OkStatus();
  }));
  return sum;
}

absl::Status AllGatherShards(ProcessGroup& group, const FlatShards& shards,
                             std::span<const at::Tensor> tensors) {
  return ForWindows(shards, [&](const Window& window) -> absl::Status {
    const at::Tensor own = Join(tensors, window.Of(group.rank()), tensors[0]);
    std::vector<at::Tensor> from;
    for (int peer = 0; peer < group.size(); ++peer) {
      from.push_back(Buffer(window.size(peer), own));
    }
    ROLLCALL_RETURN_IF_ERROR(group.Exchange(std::vector<at::Tensor>(from.size(), own), from));
    for (int peer = 0; peer < group.size(); ++peer) {
      if (peer != group.rank()) Spread(from[static_cast<size_t>(peer)], window.Of(peer), tensors);
    }
    return absl::OkStatus();
  });
}

absl::Status GatherShards(ProcessGroup& group, const FlatShards& shards, const at::Tensor& own,
                          std::span<const at::Tensor> tensors) {
  const int rank = group.rank();
  return ForWindows(shards, [&](const Window& window) -> absl::Status {
    std::vector<at::Tensor> to(static_cast<size_t>(group.size()), Buffer(0, own)), from;
    to[0] = own.slice(0, window.begin(rank), window.end(rank));
    for (int peer = 0; peer < group.size(); ++peer) {
      from.push_back(Buffer(rank == 0 ? window.size(peer) : 0, own));
    }
    ROLLCALL_RETURN_IF_ERROR(group.Exchange(to, from));
    for (int peer = 0; rank == 0 && peer < group.size(); ++peer) {
      Spread(from[static_cast<size_t>(peer)], window.Of(peer), tensors);
    }
    return absl::OkStatus();
  });
}

absl::Status ScatterShards(ProcessGroup& group, const FlatShards& shards,
                           std::span<const at::Tensor> tensors, const at::Tensor& own) {
  const int rank = group.rank();
  return ForWindows(shards, [&](const Window& window) -> absl::Status {
    std::vector<at::Tensor> to;
    for (int peer = 0; peer < group.size(); ++peer) {
      to.push_back(rank == 0 ? Join(tensors, window.Of(peer), own) : Buffer(0, own));
    }
    std::vector<at::Tensor> from(to.size(), Buffer(0, own));
    from[0] = own.slice(0, window.begin(rank), window.end(rank));
    return group.Exchange(to, from);
  });
}

}  // namespace rollcall::learner
