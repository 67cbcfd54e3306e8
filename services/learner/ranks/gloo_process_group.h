#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "services/learner/trainer/process_group.h"

namespace rollcall::learner {

struct GlooOptions {
  int rank = 0;
  int size = 1;
  // host:port; rank 0 serves it.
  std::string rendezvous;
  // How long to wait for the other ranks to come up, and later for one of them to answer.
  absl::Duration connect_timeout = absl::Seconds(120);
  absl::Duration timeout = absl::Seconds(600);
  Clock* clock = Clock::Real();
};

// Joins the process group of `size` ranks over c10d's Gloo: TCP between every two of them, in plain
// text, on this machine's address towards the rendezvous (for a loopback one on loopback alone).
// Blocks until all are there. Tensors of a GPU go through host memory. The process must ignore
// SIGPIPE (Shutdown does): Gloo writes to connections whose other end may have died.
//
// A rank that dies is noticed as its connections close, at once; one that hangs, or whose machine is
// gone, after `timeout`. INVALID_ARGUMENT: the rendezvous is no host:port. UNAVAILABLE, IsPeerLost:
// it cannot be reached, or not all came in time.
absl::StatusOr<std::unique_ptr<ProcessGroup>> ConnectGloo(const GlooOptions& options);

}  // namespace rollcall::learner
