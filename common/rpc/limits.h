#pragma once

#include <cstddef>

#include "absl/time/time.h"

namespace rollcall::rpc {

// Defaults of every server and channel, each with its reason. Both ends are ours or a verifier of
// the user's; section `security.limits` overrides those of connections.

// Largest request of the contracts (log-probs of 1024 sequences); weights go in 1 MiB chunks. Above
// gRPC's 4 MiB, which 512 sequences of 2048 tokens would reach.
inline constexpr int kMaxMessageBytes = 16 << 20;
// Buffers of all calls of one server: 128 messages of the largest size.
inline constexpr size_t kMaxMemoryBytes = size_t{2} << 30;
// A learner, its generators and some people; each holds one to three connections.
inline constexpr int kMaxConnections = 1024;
// Calls on one connection; a learner keeps some hundred groups in flight.
inline constexpr int kMaxConcurrentStreams = 1024;
// A status of kMaxStatusBytes with as much of details, twice.
inline constexpr int kMaxMetadataBytes = 16 << 10;
// TLS and HTTP/2's first exchange take milliseconds, a second on a machine that computes.
inline constexpr absl::Duration kHandshakeTimeout = absl::Seconds(10);
// A dead peer is noticed within 30 + 10 s; idle TCP paths drop after minutes.
inline constexpr absl::Duration kKeepaliveTime = absl::Seconds(30);
// A process that computes on all its cores still answers a ping within seconds.
inline constexpr absl::Duration kKeepaliveTimeout = absl::Seconds(10);
// What a server tolerates from clients: a third of kKeepaliveTime, whatever jitter.
inline constexpr absl::Duration kMinPingInterval = absl::Seconds(10);
// A restarted local service is found again at once.
inline constexpr absl::Duration kReconnectBackoffMin = absl::Milliseconds(100);
// A pod that takes a minute to come back is found within 5 s of its return.
inline constexpr absl::Duration kReconnectBackoffMax = absl::Seconds(5);
// 0.2 + 0.4 + 0.8 s of back-off (jitter 20 %) span a connection's reset.
inline constexpr int kRetryAttempts = 4;
// Message, percent-encoded; with as many bytes of base64 details it stays under the 8 KiB of
// metadata at which peers refuse the whole answer.
inline constexpr size_t kMaxStatusBytes = 3000;

}  // namespace rollcall::rpc
