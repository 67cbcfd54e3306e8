#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "rollcall/v1/verifier.pb.h"

namespace rollcall::reward {

// Limits of a ScoreRequest (verifier.proto).
inline constexpr int kMaxRequestBytes = 64 << 20;
inline constexpr int kMaxSamples = 4096;
inline constexpr size_t kMaxKeyBytes = 128;
// A completion of a million bytes is some 250,000 tokens, beyond any context here.
inline constexpr size_t kMaxTextBytes = 1 << 20;

// Whether `request` may be scored. INVALID_ARGUMENT names the field: no groups, a group without
// samples, a repeated group id or index, no deadline, a key or text that is too long.
// RESOURCE_EXHAUSTED: more than kMaxSamples. Pure.
absl::Status CheckScoreRequest(const v1::ScoreRequest& request);

// Hash of everything that a score depends on: all but the key and the deadline. Pure.
std::string FingerprintOf(const v1::ScoreRequest& request);

// The key of try number `attempt` (from 1) at samples whose earlier tries were answered `retry`:
// another one, for a verifier may answer an equal key from memory. Pure.
std::string KeyOfAttempt(const std::string& key, uint32_t attempt);

}  // namespace rollcall::reward
