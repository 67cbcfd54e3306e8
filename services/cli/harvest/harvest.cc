#include "services/cli/harvest/harvest.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"

namespace rollcall::cli {
namespace {

using nlohmann::json;

json Prompt(const v1::Group& group) {
  if (group.prompt().messages().empty()) return group.prompt().text();
  json messages = json::array();
  for (const v1::ChatMessage& message : group.prompt().messages()) {
    messages.push_back({{"role", message.role()}, {"content", message.content()}});
  }
  return messages;
}

// A completion in the prompt's own words: text, or the assistant's message.
json Completion(const v1::Group& group, const std::string& text) {
  if (group.prompt().messages().empty()) return text;
  return json::array({{{"role", "assistant"}, {"content", text}}});
}

json Row(const v1::Group& group) {
  json row = {{"prompt", Prompt(group)}, {"group", group.group_id()}};
  if (group.has_trained_step()) row["step"] = group.trained_step();
  return row;
}

bool IsTruncated(const v1::Trajectory& trajectory) {
  return trajectory.finish_reason() == v1::FINISH_REASON_LENGTH ||
         trajectory.finish_reason() == v1::FINISH_REASON_CONTEXT;
}

bool IsMultiTurn(const v1::Trajectory& trajectory) {
  const auto& segments = trajectory.segments();
  return std::count_if(segments.begin(), segments.end(), [](const v1::Segment& segment) {
           return segment.role() != v1::SEGMENT_ROLE_PROMPT;
         }) > 1;
}

}  // namespace

std::vector<json> Harvest::Rows(const v1::Group& group) {
  ++counts_.groups;
  if (!Survives(group)) return {};
  std::vector<Sample> samples = Samples(group);
  std::vector<json> rows;
  switch (options_.kind) {
    case HarvestKind::kPairs:
      rows = Pairs(group, std::move(samples));
      break;
    case HarvestKind::kKto:
      rows = Labels(group, samples);
      break;
    case HarvestKind::kSft:
      rows = Best(group, samples);
      break;
  }
  counts_.rows += rows.size();
  if (!rows.empty()) ++counts_.groups_used;
  return rows;
}

bool Harvest::Survives(const v1::Group& group) {
  if (group.outcome().has_dropped()) {
    ++counts_.dropped;
    return false;
  }
  // What an earlier start had finished and none since has taken up is no part of the run.
  if (group.outcome().has_finished() && group.lineage() < last_lineage_) {
    ++counts_.abandoned;
    return false;
  }
  return true;
}

std::vector<Harvest::Sample> Harvest::Samples(const v1::Group& group) {
  std::vector<Sample> samples;
  for (const v1::Trajectory& trajectory : group.trajectories()) {
    if (!trajectory.reward().has_value()) {
      ++counts_.unscored;
    } else if (IsMultiTurn(trajectory)) {
      ++counts_.multi_turn;
    } else if (IsTruncated(trajectory) && !options_.keep_truncated) {
      ++counts_.truncated;
    } else if (trajectory.text().empty()) {
      ++counts_.empty;
    } else {
      samples.push_back({&trajectory, trajectory.reward().value()});
    }
  }
  return samples;
}

std::vector<json> Harvest::Pairs(const v1::Group& group, std::vector<Sample> samples) {
  std::stable_sort(samples.begin(), samples.end(),
                   [](const Sample& a, const Sample& b) { return a.reward > b.reward; });
  std::vector<json> rows;
  if (samples.size() < 2) return rows;
  if (samples.front().reward == samples.back().reward) ++counts_.ties;
  for (size_t i = 0; i < options_.pairs_per_group && 2 * i + 1 < samples.size(); ++i) {
    const Sample &chosen = samples[i], &rejected = samples[samples.size() - 1 - i];
    const double margin = chosen.reward - rejected.reward;
    if (margin <= 0) break;
    if (margin < options_.min_margin) {
      ++counts_.below;
      break;
    }
    if (chosen.trajectory->text() == rejected.trajectory->text()) {
      ++counts_.same_text;
      continue;
    }
    json row = Row(group);
    row["chosen"] = Completion(group, chosen.trajectory->text());
    row["rejected"] = Completion(group, rejected.trajectory->text());
    row["margin"] = margin;
    row["chosen_reward"] = chosen.reward;
    row["rejected_reward"] = rejected.reward;
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<json> Harvest::Labels(const v1::Group& group, const std::vector<Sample>& samples) {
  double mean = 0;
  for (const Sample& sample : samples) mean += sample.reward / static_cast<double>(samples.size());
  std::vector<json> rows;
  for (const Sample& sample : samples) {
    // The mean of equal rewards need not be one of them to the last bit.
    constexpr double kRounding = 1e-9;
    if (!options_.threshold && std::abs(sample.reward - mean) <= kRounding * (1 + std::abs(mean))) {
      ++counts_.ties;
      continue;
    }
    json row = Row(group);
    row["completion"] = Completion(group, sample.trajectory->text());
    row["label"] = options_.threshold ? sample.reward >= *options_.threshold : sample.reward > mean;
    row["reward"] = sample.reward;
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<json> Harvest::Best(const v1::Group& group, const std::vector<Sample>& samples) {
  std::vector<Sample> taken;
  if (options_.min_reward) {
    for (const Sample& sample : samples) {
      if (sample.reward >= *options_.min_reward) {
        taken.push_back(sample);
      } else {
        ++counts_.below;
      }
    }
  } else if (!samples.empty()) {
    taken.push_back(
        *std::max_element(samples.begin(), samples.end(),
                          [](const Sample& a, const Sample& b) { return a.reward < b.reward; }));
  }
  std::vector<json> rows;
  std::set<std::string_view> texts;
  for (const Sample& sample : taken) {
    if (!texts.insert(sample.trajectory->text()).second) {
      ++counts_.same_text;
      continue;
    }
    json row = Row(group);
    row["completion"] = Completion(group, sample.trajectory->text());
    row["reward"] = sample.reward;
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string Harvest::Summary() const {
  std::string left_out;
  const auto add = [&](uint64_t count, const char* what) {
    if (count > 0) absl::StrAppend(&left_out, left_out.empty() ? "" : ", ", count, " ", what);
  };
  add(counts_.dropped, "groups that were dropped");
  add(counts_.abandoned, "groups of a start whose steps were lost");
  add(counts_.unscored, "samples without a reward");
  add(counts_.truncated, "samples cut off by a length limit");
  add(counts_.multi_turn, "samples of several turns");
  add(counts_.empty, "samples without text");
  switch (options_.kind) {
    case HarvestKind::kPairs:
      add(counts_.ties, "groups of one reward");
      add(counts_.below, "groups' pairs below --min-margin");
      add(counts_.same_text, "pairs of one text");
      break;
    case HarvestKind::kKto:
      add(counts_.ties, "samples at their group's mean reward");
      break;
    case HarvestKind::kSft:
      add(counts_.below, "samples below --min-reward");
      add(counts_.same_text, "samples of a text taken before");
      break;
  }
  return absl::StrCat(counts_.rows, " rows from ", counts_.groups_used, " of ", counts_.groups,
                      " groups; left out: ", left_out.empty() ? "nothing" : left_out);
}

}  // namespace rollcall::cli
