#include "services/learner/rollout/batch_builder.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace rollcall::learner {
namespace {

bool ColumnFits(int size, int tokens) { return size == 0 || size == tokens; }

absl::Status AppendSegment(const v1::Segment& segment, TrainSequence& sequence,
                           bool with_reference) {
  const int tokens = segment.token_ids_size();
  const bool sampled = segment.role() == v1::SEGMENT_ROLE_POLICY;
  if (!ColumnFits(segment.loss_mask_size(), tokens) ||
      segment.logprobs_size() != (sampled ? tokens : 0) ||
      segment.reference_logprobs_size() != (sampled && with_reference ? tokens : 0)) {
    return absl::InternalError("a segment's columns do not fit its tokens");
  }
  for (int i = 0; i < tokens; ++i) {
    sequence.token_ids.push_back(segment.token_ids(i));
    const bool in_loss = segment.loss_mask().empty() ? sampled : segment.loss_mask(i) != 0;
    sequence.loss_mask.push_back(in_loss ? 1 : 0);
    sequence.behavior_logprobs.push_back(sampled ? segment.logprobs(i) : 0.0f);
    if (with_reference) {
      sequence.reference_logprobs.push_back(sampled ? segment.reference_logprobs(i) : 0.0f);
    }
  }
  return absl::OkStatus();
}

bool IsOnPolicy(const v1::Trajectory& trajectory, const v1::PolicyVersion& trained) {
  for (const v1::Segment& segment : trajectory.segments()) {
    for (const v1::VersionSpan& span : segment.version_spans()) {
      if (span.mixed_kv() || span.version().manifest_hash() != trained.manifest_hash())
        return false;
    }
  }
  return true;
}

bool HasMixedKv(const v1::Trajectory& trajectory) {
  for (const v1::Segment& segment : trajectory.segments()) {
    for (const v1::VersionSpan& span : segment.version_spans()) {
      if (span.mixed_kv()) return true;
    }
  }
  return false;
}

bool HasReference(const v1::Group& group) {
  for (const v1::Trajectory& trajectory : group.trajectories()) {
    for (const v1::Segment& segment : trajectory.segments()) {
      if (!segment.reference_logprobs().empty()) return true;
    }
  }
  return false;
}

// Cut off by a length limit.
bool IsTruncated(const v1::Trajectory& trajectory) {
  return trajectory.finish_reason() == v1::FINISH_REASON_LENGTH ||
         trajectory.finish_reason() == v1::FINISH_REASON_CONTEXT;
}

absl::StatusOr<TrainSequence> BuildSequence(uint64_t group_id, const v1::Trajectory& trajectory,
                                            const v1::PolicyVersion& trained, bool with_reference) {
  TrainSequence sequence;
  sequence.group_id = group_id;
  sequence.sample_index = trajectory.index();
  for (const v1::Segment& segment : trajectory.segments()) {
    ROLLCALL_RETURN_IF_ERROR(AppendSegment(segment, sequence, with_reference));
  }
  if (trajectory.reward().has_value()) sequence.reward = trajectory.reward().value();
  sequence.on_policy = IsOnPolicy(trajectory, trained);
  sequence.truncated = IsTruncated(trajectory);
  return sequence;
}

// Completion tokens: everything after the prompt.
size_t CompletionLength(const v1::Trajectory& trajectory) {
  size_t tokens = 0;
  for (const v1::Segment& segment : trajectory.segments()) {
    if (segment.role() != v1::SEGMENT_ROLE_PROMPT) tokens += segment.token_ids_size();
  }
  return tokens;
}

// "stop_token" of FINISH_REASON_STOP_TOKEN.
std::string FinishName(v1::FinishReason reason) {
  constexpr size_t kPrefix = sizeof("FINISH_REASON_") - 1;
  const std::string name = v1::FinishReason_Name(reason);
  return name.size() > kPrefix ? absl::AsciiStrToLower(name.substr(kPrefix)) : "unknown";
}

struct Sums {
  size_t groups = 0, zero_variance = 0, samples = 0, truncated = 0, unscored = 0;
  double length = 0, longest = 0;
  std::vector<double> rewards;
  std::map<std::string, std::pair<double, size_t>> components;
  std::map<std::string, size_t> finish;

  void Add(const v1::Group& group) {
    ++groups;
    std::vector<double> own;
    for (const v1::Trajectory& trajectory : group.trajectories()) {
      ++samples;
      const auto tokens = static_cast<double>(CompletionLength(trajectory));
      length += tokens;
      longest = std::max(longest, tokens);
      truncated += IsTruncated(trajectory) ? 1 : 0;
      ++finish[FinishName(trajectory.finish_reason())];
      if (!trajectory.reward().has_value()) {
        ++unscored;
        continue;
      }
      own.push_back(trajectory.reward().value());
      for (const auto& [name, value] : trajectory.reward().components()) {
        auto& [sum, count] = components[name];
        sum += value;
        ++count;
      }
    }
    if (!own.empty() &&
        *std::min_element(own.begin(), own.end()) == *std::max_element(own.begin(), own.end())) {
      ++zero_variance;
    }
    rewards.insert(rewards.end(), own.begin(), own.end());
  }
};

}  // namespace

absl::StatusOr<TrainBatch> BuildBatch(std::vector<v1::Group> groups,
                                      const v1::PolicyVersion& trained) {
  std::sort(groups.begin(), groups.end(),
            [](const v1::Group& a, const v1::Group& b) { return a.group_id() < b.group_id(); });
  TrainBatch batch;
  double staleness = 0;
  size_t spans = 0;
  size_t mixed = 0;
  const bool with_reference =
      std::any_of(groups.begin(), groups.end(), [](const auto& g) { return HasReference(g); });
  for (v1::Group& group : groups) {
    if (!batch.group_ids.empty() && batch.group_ids.back() == group.group_id()) {
      return absl::InternalError(
          absl::StrCat("group ", group.group_id(), " is in the batch twice"));
    }
    batch.group_ids.push_back(group.group_id());
    std::sort(
        group.mutable_trajectories()->begin(), group.mutable_trajectories()->end(),
        [](const v1::Trajectory& a, const v1::Trajectory& b) { return a.index() < b.index(); });
    for (const v1::Trajectory& trajectory : group.trajectories()) {
      ROLLCALL_ASSIGN_OR_RETURN(
          TrainSequence sequence,
          Annotate(BuildSequence(group.group_id(), trajectory, trained, with_reference),
                   absl::StrCat("group ", group.group_id(), " sample ", trajectory.index())));
      if (group.greedy().reward().has_value()) {
        sequence.greedy_reward = group.greedy().reward().value();
        sequence.greedy_tokens = static_cast<uint32_t>(CompletionLength(group.greedy()));
        sequence.greedy_truncated = IsTruncated(group.greedy());
      }
      batch.sequences.push_back(std::move(sequence));
      if (HasMixedKv(trajectory)) ++mixed;
      for (const v1::Segment& segment : trajectory.segments()) {
        for (const v1::VersionSpan& span : segment.version_spans()) {
          staleness +=
              static_cast<double>(trained.step()) - static_cast<double>(span.version().step());
          ++spans;
        }
      }
    }
  }
  batch.metrics = RolloutMetrics(groups, "");
  batch.metrics["rollout/groups"] = static_cast<double>(groups.size());
  batch.metrics["rollout/staleness"] = spans == 0 ? 0 : staleness / static_cast<double>(spans);
  batch.metrics["rollout/mixed_kv"] =
      static_cast<double>(mixed) / static_cast<double>(std::max<size_t>(1, batch.sequences.size()));
  return batch;
}

std::map<std::string, double> RolloutMetrics(const std::vector<v1::Group>& groups,
                                             std::string_view prefix) {
  Sums sums;
  for (const v1::Group& group : groups) sums.Add(group);
  std::map<std::string, double> metrics;
  const auto set = [&](std::string_view name, double value) {
    metrics[std::string(prefix) + std::string(name)] = value;
  };
  const auto samples = static_cast<double>(sums.samples);
  if (!sums.rewards.empty()) {
    const auto count = static_cast<double>(sums.rewards.size());
    double mean = 0;
    for (const double reward : sums.rewards) mean += reward / count;
    double variance = 0;
    for (const double reward : sums.rewards) variance += (reward - mean) * (reward - mean) / count;
    set("reward/mean", mean);
    set("reward/std", std::sqrt(variance));
  }
  for (const auto& [name, sum] : sums.components) {
    set("reward/" + name, sum.first / static_cast<double>(sum.second));
  }
  set("rollout/unscored_samples", static_cast<double>(sums.unscored));
  if (sums.groups > 0) {
    set("reward/zero_variance_groups",
        static_cast<double>(sums.zero_variance) / static_cast<double>(sums.groups));
  }
  if (sums.samples > 0) {
    set("length/mean", sums.length / samples);
    set("length/max", sums.longest);
    set("length/truncated", static_cast<double>(sums.truncated) / samples);
    for (const auto& [name, count] : sums.finish) {
      set("finish/" + name, static_cast<double>(count) / samples);
    }
  }
  return metrics;
}

std::optional<double> ReferenceKl(const std::vector<v1::Group>& groups) {
  double sum = 0;
  size_t tokens = 0;
  for (const v1::Group& group : groups) {
    for (const v1::Trajectory& trajectory : group.trajectories()) {
      for (const v1::Segment& segment : trajectory.segments()) {
        if (segment.reference_logprobs_size() != segment.logprobs_size()) continue;
        for (int i = 0; i < segment.logprobs_size(); ++i) {
          sum += static_cast<double>(segment.logprobs(i)) - segment.reference_logprobs(i);
          ++tokens;
        }
      }
    }
  }
  if (tokens == 0) return std::nullopt;
  return sum / static_cast<double>(tokens);
}

}  // namespace rollcall::learner
