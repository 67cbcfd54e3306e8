#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "rollcall/v1/identity.pb.h"
#include "rollcall/v1/rollout.pb.h"
#include "services/learner/batching/batch.h"

namespace rollcall::learner {

// The batch that trains on `groups`, whatever their order: sequences ordered by (group_id,
// sample_index). `trained` is the version being trained; a sequence is on-policy when every sampled
// token came from weights with its manifest hash and over keys and values of those (not mixed_kv).
// Metrics: those of RolloutMetrics, rollout/groups, rollout/staleness (mean of the spans, steps)
// and rollout/mixed_kv (share of sequences with tokens that are marked so). Pure. INTERNAL: a record that no finished group
// has (columns of different length, a group twice).
absl::StatusOr<TrainBatch> BuildBatch(std::vector<v1::Group> groups,
                                      const v1::PolicyVersion& trained);

// What the rollouts of a step or an evaluation look like; names start with `prefix`:
//   reward/mean, reward/std      over all scored samples; std divides by n
//   reward/<component>           mean of each of the verifiers' components over the samples that
//   have it reward/zero_variance_groups  share of groups whose scored samples all have the same
//   reward length/mean, length/max      completion tokens length/truncated             share of
//   samples cut off by max_tokens or the context finish/<reason>              share of samples that
//   ended so rollout/unscored_samples     samples that no verifier scored
std::map<std::string, double> RolloutMetrics(const std::vector<v1::Group>& groups,
                                             std::string_view prefix);

// Mean over the sampled tokens of log-prob less the reference's log-prob: an unbiased estimate of the
// KL per token, in nats. Unset where no token has a reference.
std::optional<double> ReferenceKl(const std::vector<v1::Group>& groups);

}  // namespace rollcall::learner
