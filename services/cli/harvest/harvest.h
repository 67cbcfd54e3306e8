#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "rollcall/v1/rollout.pb.h"

namespace rollcall::cli {

enum class HarvestKind { kPairs, kKto, kSft };

struct HarvestOptions {
  HarvestKind kind = HarvestKind::kPairs;
  // Pairs: the best against the worst sample of a group, the second best against the second worst,
  // and so on, as long as the rewards differ by more than 0 and by at least min_margin.
  uint32_t pairs_per_group = 1;
  double min_margin = 0;
  // KTO: a sample is desirable from this reward on. Unset: above its group's mean, undesirable below
  // it, left out at it.
  std::optional<double> threshold;
  // SFT: all samples from this reward on. Unset: the best sample of each group, the first of equals.
  std::optional<double> min_reward;
  // Take samples that were cut off by a length limit, too. A stage that reads them ends them with
  // the end of sequence.
  bool keep_truncated = false;
};

// What came of the samples of a run.
struct HarvestCounts {
  uint64_t groups = 0;       // looked at
  uint64_t groups_used = 0;  // of which at least one row came
  uint64_t rows = 0;
  // Groups left out whole: never trained (dropped), or sampled by a start of the learner whose steps
  // were lost (abandoned).
  uint64_t dropped = 0, abandoned = 0;
  // Samples left out: without a reward, cut off by a length limit, of several turns, without text.
  uint64_t unscored = 0, truncated = 0, multi_turn = 0, empty = 0;
  // Pairs: groups whose samples all have one reward, pairs below min_margin or of one text. KTO:
  // samples at their group's mean. SFT: samples below min_reward, texts taken before.
  uint64_t ties = 0, below = 0, same_text = 0;
};

// Turns the groups of a run into rows of training data, one group at a time. Rows have the columns
// that the stages read (prompt, chosen and rejected and margin; prompt, completion and label; prompt
// and completion), the prompt as messages where the run's data had a chat, and beside them where
// they come from: group, step (that trained on it) and the rewards.
class Harvest {
 public:
  // `last_lineage`: the run's newest start of its learner.
  Harvest(const HarvestOptions& options, uint64_t last_lineage)
      : options_(options), last_lineage_(last_lineage) {}

  // The rows of a group, with its present outcome.
  std::vector<nlohmann::json> Rows(const v1::Group& group);

  const HarvestCounts& counts() const { return counts_; }
  // "12 rows from 8 of 10 groups; left out: 1 group dropped, 3 samples cut off": what is 0 is not
  // there.
  std::string Summary() const;

 private:
  struct Sample {
    const v1::Trajectory* trajectory = nullptr;
    double reward = 0;
  };

  bool Survives(const v1::Group& group);
  std::vector<Sample> Samples(const v1::Group& group);
  std::vector<nlohmann::json> Pairs(const v1::Group& group, std::vector<Sample> samples);
  std::vector<nlohmann::json> Labels(const v1::Group& group, const std::vector<Sample>& samples);
  std::vector<nlohmann::json> Best(const v1::Group& group, const std::vector<Sample>& samples);

  const HarvestOptions options_;
  const uint64_t last_lineage_;
  HarvestCounts counts_;
};

}  // namespace rollcall::cli
