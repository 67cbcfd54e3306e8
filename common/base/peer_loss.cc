#include "common/base/peer_loss.h"

#include <string>

#include "absl/strings/cord.h"

namespace rollcall {
namespace {

constexpr char kMark[] = "rollcall/peer-lost";

}  // namespace

absl::Status PeerLostError(std::string_view message) {
  absl::Status status = absl::UnavailableError(std::string(message));
  status.SetPayload(kMark, absl::Cord());
  return status;
}

bool IsPeerLost(const absl::Status& status) { return status.GetPayload(kMark).has_value(); }

}  // namespace rollcall
