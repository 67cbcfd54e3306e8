#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/generator/scheduler/block_pool.h"
#include "services/generator/scheduler/prefix_cache.h"
#include "services/generator/scheduler/step_plan.h"

namespace rollcall::generator {

struct SchedulerOptions {
  uint32_t num_blocks = 0;           // >= 1
  uint32_t block_tokens = 0;         // >= 1
  uint32_t max_running_samples = 0;  // >= 1; more than max_step_tokens never run at once
  uint32_t max_waiting_samples = 0;  // >= 1
  uint32_t max_step_tokens = 0;      // >= 1
};

// A request as far as scheduling is concerned: lengths only.
struct GroupSpec {
  struct Sample {
    // Tokens that were made before and are given with the request.
    uint32_t prefix_tokens = 0;
    // Prompt and completion at most; more than prompt and prefix.
    uint32_t max_total_tokens = 0;
  };
  uint32_t prompt_tokens = 0;  // >= 1
  // Every row of the prompt must be computed: nothing of it is taken from the prefix cache.
  bool whole_prompt = false;
  std::vector<Sample> samples;
};

// Decides what each engine step computes: continuous batching over a paged key/value cache. It
// counts tokens and blocks and knows no model, no clock and no thread; equal calls give equal
// plans. Of token ids it knows what `tokens_of` tells, and only to find equal beginnings.
//
// - Every running sample with one token left to compute (decoding) takes part in every step. What
// is left of
//   max_step_tokens goes to prefill, in chunks, oldest sample first.
// - A group's prompt is computed once. Its blocks are shared by reference count; who writes into a
// shared block gets a copy.
//   Samples that run when the prompt is done draw their first token from the same row; later ones
//   compute its last token again.
// - Waiting samples start in order of age. When blocks run out, prompts kept for later samples are
// dropped first, then the
//   youngest running sample is preempted: it waits again, and computes its tokens once more when it
//   returns.
// - With a prefix cache, full blocks of running and finished samples stay known by their tokens
// while nobody needs the room. A sample that starts takes the longest beginning that is known and
// computes the rest.
// - Since a sample that could not fit the empty cache is refused at once, the oldest one always
// gets on: no deadlock, and
//   nobody starves.
//
// A cycle is Plan, the step itself, Complete. Submit, Cancel, RecomputeAll and KeepDecoding come
// between cycles.
// Not thread-safe.
class Scheduler {
 public:
  // Appends tokens [begin, begin + count) of an unfinished sample's trajectory. Called by Plan and
  // Complete.
  using TokensOf = std::function<void(SampleId sample, uint32_t begin, uint32_t count,
                                      std::vector<uint32_t>* tokens)>;

  // Without `tokens_of` there is no prefix cache.
  explicit Scheduler(const SchedulerOptions& options, TokensOf tokens_of = nullptr);

  struct Admission {
    GroupId group;
    // The samples' ids are first_sample, first_sample + 1, … in the order of GroupSpec::samples.
    SampleId first_sample;
  };

  // INVALID_ARGUMENT: a sample can never fit the cache, or there are more samples than may ever
  // wait. RESOURCE_EXHAUSTED: too many samples wait just now.
  absl::StatusOr<Admission> Submit(const GroupSpec& spec);

  // Frees everything the group holds; unknown (finished) groups are ignored.
  void Cancel(GroupId group);

  // The weights changed: every key and value is void, the prefix cache's too. Running samples keep
  // their tokens and compute them again.
  void RecomputeAll();

  // The weights changed, and samples that decode go on over the keys and values they have. Those
  // are void for everybody else, also once their sample is done: the prefix cache and kept prompts
  // are dropped. Running samples with more than one token to compute compute all again.
  void KeepDecoding();

  // Empty only when no sample is unfinished.
  StepPlan Plan();

  // The planned step was done: each draw of `plan` gave one token, after which the samples in
  // `finished` (each in a draw) were complete. A sample that reached max_total_tokens must be among
  // them.
  void Complete(const StepPlan& plan, std::span<const SampleId> finished);

  uint32_t num_running() const { return static_cast<uint32_t>(running_.size()); }
  uint32_t num_waiting() const { return static_cast<uint32_t>(waiting_.size()); }
  bool idle() const { return samples_.empty(); }
  const BlockPool& pool() const { return pool_; }
  // Blocks whose loss would cost no running sample anything: free, or only in the prefix cache or
  // in prompts kept for waiting samples.
  uint32_t num_available_blocks() const;
  // Blocks that the prefix cache knows.
  uint32_t num_cached_blocks() const { return static_cast<uint32_t>(cache_.size()); }
  const SchedulerOptions& options() const { return options_; }

 private:
  struct Group {
    uint32_t prompt_tokens = 0;
    SampleId first_sample = 0;
    uint32_t num_samples = 0;
    uint32_t unfinished = 0;
    uint32_t waiting = 0;
    bool whole_prompt = false;
    // Blocks of the computed prompt, kept while samples wait; empty: none.
    std::vector<uint32_t> prompt_blocks;
    // The running sample that computes the prompt, if any. Its siblings wait for it, their slots
    // reserved.
    std::optional<SampleId> leader;
    // During Plan: the row of the prompt's last token, when the leader computes it in this step.
    std::optional<uint32_t> prompt_row;
  };
  struct Sample {
    GroupId group = 0;
    uint32_t known = 0;     // tokens whose ids are known: prompt, prefix, drawn
    uint32_t computed = 0;  // leading tokens whose keys and values are in `blocks`
    uint32_t max_total = 0;
    std::vector<uint32_t> blocks;
    // Of `blocks`, how many are those of the prefix cache, and the node of the last.
    uint32_t cached_blocks = 0;
    PrefixCache::NodeId node = PrefixCache::kRoot;
    // `blocks` hold keys and values of other weights than today's; only here, never shared anew.
    bool mixed = false;
  };

  uint32_t BlocksFor(uint32_t tokens) const;
  // Blocks that Allocate can give: free ones and idle ones of the prefix cache.
  uint32_t num_obtainable() const { return pool_.num_free() + pool_.num_idle(); }
  uint32_t Allocate();
  // Gives a waiting sample the blocks it can start from: of the kept prompt or of the prefix cache,
  // whichever has more. Sets `computed`.
  void TakeKnownBlocks(SampleId id);
  // Makes the sample's full blocks known to the prefix cache; where equal ones are, takes those.
  void CacheFullBlocks(SampleId id, Sample& sample);
  // Whether writing at `computed` goes into a block that others hold too.
  bool MustCopy(const Sample& sample) const;
  // Blocks to allocate before tokens up to `upto` can be computed.
  uint32_t BlocksNeeded(const Sample& sample, uint32_t upto) const;
  void AllocateBlocks(Sample& sample, uint32_t upto, StepPlan& plan);
  // Finds the blocks for a running sample, from whoever is younger; false: the sample itself was
  // preempted.
  bool ReserveForRunning(SampleId id, uint32_t upto, StepPlan& plan);
  // Drops one kept prompt, youngest group first, except `keep`'s: one that frees a block, or any
  // where prompts may share blocks through the prefix cache. False: there is none.
  bool ReclaimPrompt(GroupId keep);
  void DropPrompt(Group& group);
  void Preempt(SampleId id);
  // Moves a waiting sample to the running ones.
  void MarkRunning(SampleId id, Group& group);
  void AddChunk(SampleId id, uint32_t count, StepPlan& plan);
  void PlanRunning(StepPlan& plan, uint32_t& prefill_budget);
  void PlanWaiting(StepPlan& plan, uint32_t prefill_budget);
  void ForkFromLeader(SampleId id, Group& group, StepPlan& plan);
  // Starts a waiting sample on its own: from the kept prompt or from scratch. False: with
  // `headroom` blocks to spare for those that run there are not enough yet.
  bool StartWaiting(SampleId id, uint32_t headroom, uint32_t& prefill_budget, StepPlan& plan);
  void ReleaseBlocks(std::vector<uint32_t>& blocks);
  // ReleaseBlocks of a sample, which then has computed nothing.
  void ReleaseSample(Sample& sample);
  void Remove(SampleId id);

  const SchedulerOptions options_;
  const uint32_t max_running_;
  const TokensOf tokens_of_;
  BlockPool pool_;
  PrefixCache cache_;  // empty without tokens_of_
  std::map<SampleId, Sample> samples_;
  std::map<GroupId, Group> groups_;
  std::set<SampleId> running_;
  std::set<SampleId> waiting_;
  SampleId next_sample_ = 1;
  GroupId next_group_ = 1;
};

}  // namespace rollcall::generator
