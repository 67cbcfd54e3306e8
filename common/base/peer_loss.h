#pragma once

#include <string_view>

#include "absl/status/status.h"

namespace rollcall {

// Exit code, beside those of shutdown.h, of a process that ended because another one of its job was
// lost: there is nothing wrong with itself, and starting all of them again helps.
inline constexpr int kExitPeerLost = 4;

// UNAVAILABLE with a mark that IsPeerLost finds, also after Annotate.
absl::Status PeerLostError(std::string_view message);
bool IsPeerLost(const absl::Status& status);

}  // namespace rollcall
