#include "services/generator/scheduler/scheduler.h"

#include <algorithm>
#include <cassert>
#include <string>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"

namespace rollcall::generator {
namespace {

// Share of the cache that stays free when a waiting sample starts beside running ones, so that
// their next tokens do not preempt it at once: 1/64 is one block for each of 256 running samples at
// 16,384 blocks.
constexpr uint32_t kHeadroomShare = 64;

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, TokensOf tokens_of)
    : options_(options),
      max_running_(std::min(options.max_running_samples, options.max_step_tokens)),
      tokens_of_(std::move(tokens_of)),
      pool_(options.num_blocks),
      cache_(&pool_, options.block_tokens) {
  assert(options.num_blocks > 0 && options.block_tokens > 0 && max_running_ > 0 &&
         options.max_waiting_samples > 0);
}

absl::StatusOr<Scheduler::Admission> Scheduler::Submit(const GroupSpec& spec) {
  const uint32_t count = static_cast<uint32_t>(spec.samples.size());
  assert(count > 0 && spec.prompt_tokens > 0);
  if (count > options_.max_waiting_samples) {
    return absl::InvalidArgumentError(absl::StrCat("num_samples: ", count,
                                                   " samples; this generator queues at most ",
                                                   options_.max_waiting_samples));
  }
  for (const GroupSpec::Sample& sample : spec.samples) {
    assert(sample.max_total_tokens > spec.prompt_tokens + sample.prefix_tokens);
    // The last token's keys and values are never read, so never stored.
    const uint32_t blocks = BlocksFor(sample.max_total_tokens - 1);
    if (blocks > options_.num_blocks) {
      return absl::InvalidArgumentError(
          absl::StrCat("sampling.max_tokens: prompt and completion of ", sample.max_total_tokens,
                       " tokens need ", blocks, " blocks of the key/value cache, which has ",
                       options_.num_blocks));
    }
  }
  if (waiting_.size() + count > options_.max_waiting_samples) {
    return absl::ResourceExhaustedError(absl::StrCat(
        waiting_.size(), " samples wait already, at most ", options_.max_waiting_samples, " may"));
  }
  const GroupId group_id = next_group_++;
  Group& group = groups_[group_id];
  group.prompt_tokens = spec.prompt_tokens;
  group.whole_prompt = spec.whole_prompt;
  group.first_sample = next_sample_;
  group.num_samples = group.unfinished = group.waiting = count;
  for (const GroupSpec::Sample& sample : spec.samples) {
    const SampleId id = next_sample_++;
    samples_[id] = Sample{.group = group_id,
                          .known = spec.prompt_tokens + sample.prefix_tokens,
                          .computed = 0,
                          .max_total = sample.max_total_tokens,
                          .blocks = {}};
    waiting_.insert(id);
  }
  return Admission{group_id, group.first_sample};
}

void Scheduler::Cancel(GroupId group_id) {
  const auto it = groups_.find(group_id);
  if (it == groups_.end()) return;
  const SampleId end = it->second.first_sample + it->second.num_samples;
  // Removing the last one removes the group.
  for (SampleId id = it->second.first_sample; id < end; ++id) Remove(id);
}

void Scheduler::RecomputeAll() {
  while (!running_.empty()) Preempt(*running_.begin());
  for (auto& [id, group] : groups_) DropPrompt(group);
  cache_.Clear();
}

void Scheduler::KeepDecoding() {
  for (const SampleId id : std::vector<SampleId>(running_.begin(), running_.end())) {
    Sample& sample = samples_.at(id);
    // A leader's prompt is still to be shared.
    if (sample.known - sample.computed > 1 || groups_.at(sample.group).leader == id) {
      Preempt(id);
      continue;
    }
    sample.mixed = true;
    sample.cached_blocks = 0;
    sample.node = PrefixCache::kRoot;
  }
  for (auto& [id, group] : groups_) DropPrompt(group);
  cache_.Clear();
}

StepPlan Scheduler::Plan() {
  StepPlan plan;
  const auto decoding = std::count_if(running_.begin(), running_.end(), [this](SampleId id) {
    const Sample& sample = samples_.at(id);
    return sample.known - sample.computed == 1;
  });
  uint32_t prefill_budget = options_.max_step_tokens - static_cast<uint32_t>(decoding);
  PlanRunning(plan, prefill_budget);
  // Who was just preempted had better not come back at once.
  if (plan.preempted.empty()) PlanWaiting(plan, prefill_budget);
  for (const StepChunk& chunk : plan.chunks) {
    groups_.at(samples_.at(chunk.sample).group).prompt_row.reset();
  }
  assert(!plan.empty() || idle());
  return plan;
}

void Scheduler::PlanRunning(StepPlan& plan, uint32_t& prefill_budget) {
  const std::vector<SampleId> by_age(running_.begin(), running_.end());
  for (const SampleId id : by_age) {
    if (!running_.contains(id)) continue;  // an older one took its blocks
    const Sample& sample = samples_.at(id);
    const uint32_t left = sample.known - sample.computed;
    const uint32_t count = left == 1 ? 1 : std::min(left, prefill_budget);
    if (count == 0 || !ReserveForRunning(id, sample.computed + count, plan)) continue;
    if (left > 1) prefill_budget -= count;
    AddChunk(id, count, plan);
  }
}

void Scheduler::PlanWaiting(StepPlan& plan, uint32_t prefill_budget) {
  uint32_t slots = max_running_ - num_running();
  // Every fork takes a block in the next step: promised here, so that the samples after it leave it
  // alone.
  uint32_t promised = 0;
  const uint32_t spare = std::max(1u, options_.num_blocks / kHeadroomShare);
  for (auto it = waiting_.begin(); it != waiting_.end() && slots > 0;) {
    const SampleId id = *it++;  // what follows may take it out of waiting_
    Group& group = groups_.at(samples_.at(id).group);
    if (group.prompt_row.has_value()) {
      if (num_obtainable() < promised + 1 + spare) return;
      ForkFromLeader(id, group, plan);
      ++promised;
    } else if (!group.leader.has_value()) {
      const uint32_t headroom = running_.empty() ? 0 : promised + spare;
      if (prefill_budget == 0 || !StartWaiting(id, headroom, prefill_budget, plan)) return;
    }
    --slots;
  }
}

void Scheduler::ForkFromLeader(SampleId id, Group& group, StepPlan& plan) {
  Sample& sample = samples_.at(id);
  const Sample& leader = samples_.at(*group.leader);
  sample.blocks.assign(leader.blocks.begin(),
                       leader.blocks.begin() + BlocksFor(group.prompt_tokens));
  for (const uint32_t block : sample.blocks) pool_.Retain(block);
  sample.computed = group.prompt_tokens;
  if (sample.known == sample.computed) {
    plan.draws.push_back({.sample = id, .row = *group.prompt_row, .position = sample.known});
  }
  MarkRunning(id, group);
}

bool Scheduler::StartWaiting(SampleId id, uint32_t headroom, uint32_t& prefill_budget,
                             StepPlan& plan) {
  Sample& sample = samples_.at(id);
  Group& group = groups_.at(sample.group);
  const bool has_prompt = !group.prompt_blocks.empty();
  TakeKnownBlocks(id);
  const uint32_t found = sample.cached_blocks * options_.block_tokens;
  // Blocks for all its tokens, not for one chunk only: it should not be preempted before it draws
  // one.
  while (num_obtainable() < BlocksNeeded(sample, sample.known) + headroom) {
    if (ReclaimPrompt(sample.group)) continue;
    if (running_.empty() && !group.prompt_blocks.empty()) {
      DropPrompt(group);
      continue;
    }
    ReleaseSample(sample);
    return false;
  }
  MarkRunning(id, group);
  if (tokens_of_ != nullptr) ++plan.cache_lookups;
  if (found > 0) ++plan.cache_hits;
  plan.cache_hit_tokens += found;
  if (!has_prompt && sample.computed < group.prompt_tokens) group.leader = id;
  const uint32_t count = std::min(sample.known - sample.computed, prefill_budget);
  prefill_budget -= count;
  AllocateBlocks(sample, sample.computed + count, plan);
  AddChunk(id, count, plan);
  return true;
}

void Scheduler::TakeKnownBlocks(SampleId id) {
  Sample& sample = samples_.at(id);
  const Group& group = groups_.at(sample.group);
  // At least one token must be computed, to draw the next from.
  const uint32_t wanted = sample.known - 1;
  if (!group.prompt_blocks.empty()) {
    sample.computed = std::min(group.prompt_tokens, wanted);
    const uint32_t end = sample.computed % options_.block_tokens;
    // A full block that the prefix cache may hold is not written to.
    if (tokens_of_ != nullptr &&
        group.prompt_tokens - sample.computed + end >= options_.block_tokens)
      sample.computed -= end;
    sample.blocks.assign(group.prompt_blocks.begin(),
                         group.prompt_blocks.begin() + BlocksFor(sample.computed));
  } else if (group.whole_prompt) {
    return;
  }
  if (tokens_of_ != nullptr && !group.whole_prompt) {
    std::vector<uint32_t> tokens;
    tokens_of_(id, 0, wanted, &tokens);
    PrefixCache::Match match = cache_.Find(tokens);
    const uint32_t found = static_cast<uint32_t>(match.blocks.size()) * options_.block_tokens;
    if (found > sample.computed) {
      sample.computed = found;
      sample.cached_blocks = static_cast<uint32_t>(match.blocks.size());
      sample.node = match.last;
      sample.blocks = std::move(match.blocks);
    }
  }
  for (const uint32_t block : sample.blocks) pool_.Retain(block);
}

void Scheduler::CacheFullBlocks(SampleId id, Sample& sample) {
  if (tokens_of_ == nullptr || sample.mixed) return;
  const uint32_t full = sample.computed / options_.block_tokens;
  std::vector<uint32_t> tokens;
  for (uint32_t& index = sample.cached_blocks; index < full; ++index) {
    tokens.clear();
    tokens_of_(id, index * options_.block_tokens, options_.block_tokens, &tokens);
    uint32_t& block = sample.blocks[index];
    sample.node = cache_.Insert(sample.node, tokens, block);
    // Equal tokens have equal keys and values to the bit, so either block will do, and holding the
    // cache's keeps its rule on ancestors.
    const uint32_t known = cache_.block(sample.node);
    if (known == block) continue;
    pool_.Retain(known);
    pool_.Release(block);
    block = known;
  }
}

uint32_t Scheduler::Allocate() {
  if (pool_.num_free() == 0) cache_.Evict();
  return pool_.Allocate();
}

void Scheduler::MarkRunning(SampleId id, Group& group) {
  waiting_.erase(id);
  running_.insert(id);
  if (--group.waiting == 0) DropPrompt(group);
}

void Scheduler::AddChunk(SampleId id, uint32_t count, StepPlan& plan) {
  const Sample& sample = samples_.at(id);
  Group& group = groups_.at(sample.group);
  const uint32_t end = sample.computed + count;
  StepChunk chunk{.sample = id,
                  .begin = sample.computed,
                  .count = count,
                  .first_row = plan.rows,
                  .block_begin = static_cast<uint32_t>(plan.block_ids.size()),
                  .block_end = 0};
  plan.block_ids.insert(plan.block_ids.end(), sample.blocks.begin(), sample.blocks.end());
  chunk.block_end = static_cast<uint32_t>(plan.block_ids.size());
  plan.chunks.push_back(chunk);
  if (sample.known - sample.computed == 1) ++plan.decode_rows;
  if (end == sample.known) {
    plan.draws.push_back(
        {.sample = id, .row = plan.rows + count - 1, .position = end, .mixed = sample.mixed});
  }
  if (group.leader == id && sample.computed < group.prompt_tokens && end >= group.prompt_tokens) {
    group.prompt_row = plan.rows + (group.prompt_tokens - 1 - sample.computed);
  }
  plan.rows += count;
}

void Scheduler::Complete(const StepPlan& plan, std::span<const SampleId> finished) {
  for (const StepChunk& chunk : plan.chunks) {
    Sample& sample = samples_.at(chunk.sample);
    Group& group = groups_.at(sample.group);
    sample.computed += chunk.count;
    CacheFullBlocks(chunk.sample, sample);
    if (group.leader != chunk.sample || sample.computed < group.prompt_tokens) continue;
    group.leader.reset();
    if (group.waiting == 0) continue;
    assert(group.prompt_blocks.empty());
    group.prompt_blocks.assign(sample.blocks.begin(),
                               sample.blocks.begin() + BlocksFor(group.prompt_tokens));
    for (const uint32_t block : group.prompt_blocks) pool_.Retain(block);
  }
  for (const StepDraw& draw : plan.draws) ++samples_.at(draw.sample).known;
  for (const SampleId id : finished) Remove(id);
  for (const StepDraw& draw : plan.draws) {
    const auto it = samples_.find(draw.sample);
    assert(it == samples_.end() || it->second.known < it->second.max_total);
    (void)it;
  }
}

uint32_t Scheduler::num_available_blocks() const {
  std::unordered_map<uint32_t, uint32_t> in_prompts;  // block -> prompts that hold it
  for (const auto& [id, group] : groups_) {
    for (const uint32_t block : group.prompt_blocks) ++in_prompts[block];
  }
  uint32_t available = num_obtainable();
  for (const auto& [block, prompts] : in_prompts) available += pool_.holders(block) == prompts;
  return available;
}

uint32_t Scheduler::BlocksFor(uint32_t tokens) const {
  return tokens / options_.block_tokens + (tokens % options_.block_tokens != 0);
}

bool Scheduler::MustCopy(const Sample& sample) const {
  const uint32_t index = sample.computed / options_.block_tokens;
  return index < sample.blocks.size() && pool_.references(sample.blocks[index]) > 1;
}

uint32_t Scheduler::BlocksNeeded(const Sample& sample, uint32_t upto) const {
  const uint32_t held = static_cast<uint32_t>(sample.blocks.size());
  const uint32_t wanted = BlocksFor(upto);
  return (wanted > held ? wanted - held : 0) + MustCopy(sample);
}

void Scheduler::AllocateBlocks(Sample& sample, uint32_t upto, StepPlan& plan) {
  if (MustCopy(sample)) {
    uint32_t& block = sample.blocks[sample.computed / options_.block_tokens];
    const uint32_t copy = Allocate();
    plan.copies.push_back({.from = block, .to = copy});
    pool_.Release(block);
    block = copy;
  }
  while (sample.blocks.size() < BlocksFor(upto)) sample.blocks.push_back(Allocate());
}

bool Scheduler::ReserveForRunning(SampleId id, uint32_t upto, StepPlan& plan) {
  Sample& sample = samples_.at(id);
  Group& group = groups_.at(sample.group);
  while (num_obtainable() < BlocksNeeded(sample, upto)) {
    if (ReclaimPrompt(/*keep=*/0)) continue;
    const SampleId victim = *running_.rbegin();
    if (victim == id && !group.prompt_blocks.empty()) {
      // Frees nothing, but a block that nobody else holds need not be copied.
      DropPrompt(group);
      continue;
    }
    Preempt(victim);
    plan.preempted.push_back(victim);
    if (victim == id) return false;
  }
  AllocateBlocks(sample, upto, plan);
  return true;
}

bool Scheduler::ReclaimPrompt(GroupId keep) {
  for (auto it = groups_.rbegin(); it != groups_.rend(); ++it) {
    Group& group = it->second;
    if (it->first == keep) continue;
    const bool frees = std::any_of(group.prompt_blocks.begin(), group.prompt_blocks.end(),
                                   [this](uint32_t block) { return pool_.holders(block) == 1; });
    if (!frees) continue;
    DropPrompt(group);
    return true;
  }
  if (tokens_of_ == nullptr) return false;
  for (auto it = groups_.rbegin(); it != groups_.rend(); ++it) {
    if (it->first == keep || it->second.prompt_blocks.empty()) continue;
    DropPrompt(it->second);
    return true;
  }
  return false;
}

void Scheduler::DropPrompt(Group& group) { ReleaseBlocks(group.prompt_blocks); }

void Scheduler::Preempt(SampleId id) {
  Sample& sample = samples_.at(id);
  Group& group = groups_.at(sample.group);
  ReleaseSample(sample);
  running_.erase(id);
  waiting_.insert(id);
  ++group.waiting;
  if (group.leader == id) group.leader.reset();
}

void Scheduler::ReleaseBlocks(std::vector<uint32_t>& blocks) {
  for (const uint32_t block : blocks) pool_.Release(block);
  blocks.clear();
}

void Scheduler::ReleaseSample(Sample& sample) {
  cache_.Touch(sample.node);
  ReleaseBlocks(sample.blocks);
  sample.computed = sample.cached_blocks = 0;
  sample.node = PrefixCache::kRoot;
  sample.mixed = false;
}

void Scheduler::Remove(SampleId id) {
  const auto it = samples_.find(id);
  if (it == samples_.end()) return;
  const GroupId group_id = it->second.group;
  Group& group = groups_.at(group_id);
  ReleaseSample(it->second);
  if (group.leader == id) group.leader.reset();
  running_.erase(id);
  if (waiting_.erase(id) > 0 && --group.waiting == 0) DropPrompt(group);
  samples_.erase(it);
  if (--group.unfinished == 0) {
    DropPrompt(group);
    groups_.erase(group_id);
  }
}

}  // namespace rollcall::generator
