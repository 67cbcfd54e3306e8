#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace rollcall::learner {

// Where the ranks meet, learner.rendezvous, as this machine sees it.
struct Rendezvous {
  std::string host;  // as given
  uint16_t port = 0;
  // Numeric: this machine's own address on the way to the host; the host's, where it is this machine.
  std::string own_address;
};

// INVALID_ARGUMENT: not host:port. UNAVAILABLE: the host's name is not known, or there is no way to
// it. Asks the name service, which may block; sends nothing.
absl::StatusOr<Rendezvous> ResolveRendezvous(const std::string& address);

// A socket that listens at the rendezvous, which must be an address of this machine, and nowhere
// else; the caller owns it. UNAVAILABLE: the port is taken, or the address is another machine's.
absl::StatusOr<int> ListenAt(const Rendezvous& rendezvous);

}  // namespace rollcall::learner
