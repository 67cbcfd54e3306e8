#include "services/learner/ranks/gloo_process_group.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <chrono>
#include <exception>
#include <optional>
#include <string_view>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"
#include "common/base/peer_loss.h"
#include "common/base/status.h"
#include "services/learner/ranks/rendezvous.h"

namespace rollcall::learner {
namespace {

using Gloo = c10d::ProcessGroupGloo;

// Messages between two ranks arrive in the order of the calls, which is the same on both.
constexpr int kTag = 0;

std::chrono::milliseconds Milliseconds(absl::Duration duration) {
  return std::chrono::milliseconds(absl::ToInt64Milliseconds(duration));
}

std::string FirstLine(std::string_view text) {
  return std::string(text.substr(0, text.find('\n')));
}

bool IsLoopback(const std::string& address) {
  return address.rfind("127.", 0) == 0 || address == "::1";
}

class GlooProcessGroup final : public ProcessGroup {
 public:
  GlooProcessGroup(const GlooOptions& options, c10::intrusive_ptr<c10d::Store> store,
                   c10::intrusive_ptr<Gloo> gloo)
      : options_(options), store_(std::move(store)), gloo_(std::move(gloo)) {}

  int rank() const override { return options_.rank; }
  int size() const override { return options_.size; }

  absl::Status Exchange(const std::vector<at::Tensor>& to,
                        const std::vector<at::Tensor>& from) override {
    if (!lost_.ok()) return lost_;
    const at::NoGradGuard no_grad;
    const absl::Time start = options_.clock->Now();
    lost_ = Transfer(to, from);
    seconds_ += absl::ToDoubleSeconds(options_.clock->Now() - start);
    return lost_;
  }

 private:
  struct Pending {
    int peer;
    at::Tensor host;
    c10::intrusive_ptr<c10d::Work> work;
  };

  absl::Status Transfer(const std::vector<at::Tensor>& to, const std::vector<at::Tensor>& from) {
    const auto own = static_cast<size_t>(rank());
    if (from[own].numel() > 0) from[own].copy_(to[own]);
    std::vector<Pending> receiving, sending;
    int peer = rank();
    try {
      for (int offset = 1; offset < size(); ++offset) {
        peer = (rank() + offset) % size();
        const at::Tensor& target = from[static_cast<size_t>(peer)];
        if (target.numel() == 0) continue;
        const at::Tensor host =
            target.is_cpu() ? target : at::empty(target.sizes(), target.options().device(at::kCPU));
        std::vector<at::Tensor> one = {host};
        receiving.push_back({peer, host, gloo_->recv(one, peer, kTag)});
      }
      for (int offset = 1; offset < size(); ++offset) {
        peer = (rank() + offset) % size();
        const at::Tensor host = to[static_cast<size_t>(peer)].cpu();
        if (host.numel() == 0) continue;
        std::vector<at::Tensor> one = {host};
        sending.push_back({peer, host, gloo_->send(one, peer, kTag)});
        sent_bytes_ += static_cast<uint64_t>(host.numel() * host.element_size());
      }
      for (const std::vector<Pending>* works : {&receiving, &sending}) {
        for (const Pending& pending : *works) {
          peer = pending.peer;
          pending.work->wait(Milliseconds(options_.timeout));
        }
      }
    } catch (const std::exception& error) {
      return PeerLostError(absl::StrCat("rank ", rank(), " of ", size(), " lost rank ", peer, ": ",
                                        FirstLine(error.what())));
    }
    for (const Pending& received : receiving) {
      const at::Tensor& target = from[static_cast<size_t>(received.peer)];
      if (!target.is_cpu()) target.copy_(received.host);
    }
    return absl::OkStatus();
  }

  const GlooOptions options_;
  const c10::intrusive_ptr<c10d::Store> store_;  // rank 0 serves it while the group lives
  const c10::intrusive_ptr<Gloo> gloo_;
  absl::Status lost_;
};

c10::intrusive_ptr<c10d::Store> OpenStore(const GlooOptions& options, const Rendezvous& rendezvous,
                                          std::optional<int> listening) {
  c10d::TCPStoreOptions store;
  store.port = rendezvous.port;
  store.isServer = options.rank == 0;
  store.numWorkers = static_cast<size_t>(options.size);
  store.waitWorkers = false;
  store.timeout = Milliseconds(options.connect_timeout);
  store.masterListenFd = listening;
  return c10::make_intrusive<c10d::TCPStore>(rendezvous.host, store);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ProcessGroup>> ConnectGloo(const GlooOptions& options) {
  ROLLCALL_ASSIGN_OR_RETURN(const Rendezvous rendezvous, ResolveRendezvous(options.rendezvous));
  std::optional<int> listening;
  // The store would listen on every address of the machine; so it is given a socket that does not.
  if (options.rank == 0) {
    ROLLCALL_ASSIGN_OR_RETURN(listening, ListenAt(rendezvous));
  }
  try {
    auto store = OpenStore(options, rendezvous, listening);
    auto gloo_options = Gloo::Options::create(Milliseconds(options.connect_timeout));
    gloo_options->devices.push_back(
        Gloo::createDeviceForHostname(rendezvous.own_address, /*lazyInit=*/false));
    auto gloo = c10::make_intrusive<Gloo>(c10::make_intrusive<c10d::PrefixStore>("ranks", store),
                                          options.rank, options.size, gloo_options);
    LogInfo("ranks connected", {{"rank", options.rank},
                                {"of", options.size},
                                {"rendezvous", options.rendezvous},
                                {"address", rendezvous.own_address}});
    if (!IsLoopback(rendezvous.own_address)) {
      LogWarning("the ranks exchange batches, gradients and weights in plain text; keep others off",
                 {{"address", rendezvous.own_address}});
    }
    return std::make_unique<GlooProcessGroup>(options, std::move(store), std::move(gloo));
  } catch (const std::exception& error) {
    return PeerLostError(absl::StrCat(
        "rank ", options.rank, " of ", options.size, ": not all ranks came to ", options.rendezvous,
        " within ", absl::FormatDuration(options.connect_timeout), ": ", FirstLine(error.what())));
  }
}

}  // namespace rollcall::learner
