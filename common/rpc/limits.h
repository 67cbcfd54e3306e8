#pragma once

#include <cstddef>

#include "absl/time/time.h"

namespace rollcall::rpc {

// Limits of every server and channel. Both ends are ours or a verifier of the user's; each number
// with its reason.
//
// | constant              | value  | reason | | --------------------- | ------ |
// -------------------------------------------------------------------------------- | |
// kMaxMessageBytes      | 16 MiB | largest request of the contracts (log-probs of 1024 sequences);
// weights go in    | |                       |        | 1 MiB chunks; above gRPC's 4 MiB, which 512
// sequences of 2048 tokens would reach | | kMaxMemoryBytes       | 2 GiB  | buffers of all calls of
// one server: 128 messages of the largest size             | | kMaxConcurrentStreams | 1024   |
// calls on one connection; a learner keeps some hundred groups in flight           | |
// kKeepaliveTime        | 30 s   | a dead peer is noticed within 30 + 10 s; idle TCP paths drop
// after minutes       | | kKeepaliveTimeout     | 10 s   | a process that computes on all its cores
// still answers a ping within seconds     | | kMinPingInterval      | 10 s   | what a server
// tolerates from clients: a third of kKeepaliveTime, whatever jitter | | kReconnectBackoffMin  |
// 100 ms | a restarted local service is found again at once                                 | |
// kReconnectBackoffMax  | 5 s    | a pod that takes a minute to come back is found within 5 s of
// its return         | | kRetryAttempts        | 4      | 0.2 + 0.4 + 0.8 s of back-off (jitter 20
// %) span a connection's reset            | | kMaxStatusBytes       | 3000   | message,
// percent-encoded; with as many bytes of base64 details it stays under    | | |        | the 8 KiB
// of metadata at which peers refuse the whole answer                     |

inline constexpr int kMaxMessageBytes = 16 << 20;
inline constexpr size_t kMaxMemoryBytes = size_t{2} << 30;
inline constexpr int kMaxConcurrentStreams = 1024;
inline constexpr absl::Duration kKeepaliveTime = absl::Seconds(30);
inline constexpr absl::Duration kKeepaliveTimeout = absl::Seconds(10);
inline constexpr absl::Duration kMinPingInterval = absl::Seconds(10);
inline constexpr absl::Duration kReconnectBackoffMin = absl::Milliseconds(100);
inline constexpr absl::Duration kReconnectBackoffMax = absl::Seconds(5);
inline constexpr int kRetryAttempts = 4;
inline constexpr size_t kMaxStatusBytes = 3000;

}  // namespace rollcall::rpc
