// Random workloads against an executor that keeps, for every slot of the cache, which token of
// which text was written there: whatever the scheduler shares, copies, preempts or frees, each
// token must find its own past in its blocks.
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/philox.h"
#include "services/generator/scheduler/scheduler.h"

namespace rollcall::generator {
namespace {

constexpr uint64_t kMix = 0x9e3779b97f4a7c15u;

uint64_t Mix(uint64_t hash, uint64_t value) {
  hash ^= value + kMix + (hash << 6) + (hash >> 2);
  return hash * 0xff51afd7ed558ccdu;
}

struct SimulatedSample {
  GroupId group = 0;
  std::vector<uint32_t> tokens;
  // hash_upto[t]: of tokens [0, t]; what the cache holds for token t, since keys and values depend
  // on all before.
  std::vector<uint64_t> prefix_hash;
  uint32_t target = 0;  // tokens after which it ends
  // The step in which it must have ended, whatever comes after it: see FairBound.
  uint64_t latest_step = 0;
  // Of the weights that its keys and values were begun with.
  uint64_t epoch = 0;
};

class Simulation {
 public:
  Simulation(uint64_t seed, const SchedulerOptions& options, bool prefix_cache)
      : random_(seed, 1),
        options_(options),
        scheduler_(options, prefix_cache ? TokensOf() : nullptr),
        cache_(options.num_blocks, std::vector<uint64_t>(options.block_tokens, 0)) {}

  void Run() {
    uint32_t to_submit = 3 + static_cast<uint32_t>(random_.Below(12));
    while (to_submit > 0 || !scheduler_.idle()) {
      while (to_submit > 0 && (scheduler_.idle() || random_.Below(3) == 0)) {
        SubmitRandom();
        --to_submit;
      }
      if (random_.Below(40) == 0 && !live_groups_.empty()) CancelRandom();
      if (random_.Below(60) == 0) {
        ChangeWeights();
      }
      Step();
      if (testing::Test::HasFatalFailure()) return;
      ASSERT_LT(steps_, 20000u) << "no end in sight";
    }
    EXPECT_EQ(scheduler_.num_available_blocks(), options_.num_blocks);
    EXPECT_EQ(scheduler_.pool().num_idle(), scheduler_.num_cached_blocks());
    scheduler_.RecomputeAll();
    EXPECT_EQ(scheduler_.pool().num_free(), options_.num_blocks);
    EXPECT_EQ(scheduler_.num_cached_blocks(), 0u);
    EXPECT_EQ(scheduler_.num_running() + scheduler_.num_waiting(), 0u);
    EXPECT_TRUE(samples_.empty());
  }

  uint64_t preemptions() const { return preemptions_; }
  uint64_t copies() const { return copies_; }
  uint64_t shared_draws() const { return shared_draws_; }
  uint64_t cache_hits() const { return cache_hits_; }
  uint64_t mixed_draws() const { return mixed_draws_; }

 private:
  Scheduler::TokensOf TokensOf() const {
    return [this](SampleId id, uint32_t begin, uint32_t count, std::vector<uint32_t>* tokens) {
      const std::vector<uint32_t>& all = samples_.at(id).tokens;
      ASSERT_LE(begin + count, all.size());
      tokens->insert(tokens->end(), all.begin() + begin, all.begin() + begin + count);
    };
  }

  void SubmitRandom() {
    const uint32_t capacity = options_.num_blocks * options_.block_tokens;
    GroupSpec spec;
    spec.prompt_tokens = 1 + static_cast<uint32_t>(random_.Below(capacity / 2 + 1));
    const uint32_t count = 1 + static_cast<uint32_t>(random_.Below(9));
    for (uint32_t i = 0; i < count; ++i) {
      GroupSpec::Sample sample;
      if (random_.Below(4) == 0) sample.prefix_tokens = static_cast<uint32_t>(random_.Below(6));
      sample.max_total_tokens =
          spec.prompt_tokens + sample.prefix_tokens + 1 + static_cast<uint32_t>(random_.Below(24));
      spec.samples.push_back(sample);
    }
    const auto admission = scheduler_.Submit(spec);
    if (!admission.ok()) {
      const uint32_t longest = std::max_element(spec.samples.begin(), spec.samples.end(),
                                                [](const auto& a, const auto& b) {
                                                  return a.max_total_tokens < b.max_total_tokens;
                                                })
                                   ->max_total_tokens;
      const bool never = longest - 1 > capacity || count > options_.max_waiting_samples;
      ASSERT_EQ(admission.status().code(),
                never ? absl::StatusCode::kInvalidArgument : absl::StatusCode::kResourceExhausted)
          << admission.status();
      return;
    }
    live_groups_[admission->group] = {};
    // Prompts of a few families, which part somewhere.
    const uint64_t family = random_.Below(3);
    const uint64_t common = random_.Below(spec.prompt_tokens + 1);
    for (uint32_t i = 0; i < count; ++i) {
      SimulatedSample sample{.group = admission->group,
                             .tokens = {},
                             .prefix_hash = {},
                             .target = 0,
                             .latest_step = 0,
                             .epoch = epoch_};
      for (uint32_t t = 0; t < spec.prompt_tokens + spec.samples[i].prefix_tokens; ++t) {
        const uint64_t owner = t < common               ? family
                               : t < spec.prompt_tokens ? 100 + admission->group
                                                        : 1000000 + admission->first_sample + i;
        AddToken(sample, static_cast<uint32_t>(Mix(owner, t)));
      }
      const uint32_t known = static_cast<uint32_t>(sample.prefix_hash.size());
      sample.target =
          known + 1 +
          static_cast<uint32_t>(random_.Below(spec.samples[i].max_total_tokens - known));
      live_groups_[admission->group].insert(admission->first_sample + i);
      samples_[admission->first_sample + i] = std::move(sample);
    }
    SetFairBounds(admission->first_sample);
  }

  // Nobody waits for those that come later. In every step the oldest running sample gets on by a
  // token at least, and nobody takes its blocks, so as the oldest a sample needs no more steps than
  // it has tokens. Until the oldest that waits gets blocks, nobody starts behind it: those that run
  // end within as many steps as a sequence can have tokens. So the bound is the sum of both over all
  // that are as old.
  void SetFairBounds(SampleId first) {
    const uint64_t longest = uint64_t{options_.num_blocks} * options_.block_tokens + 1;
    uint64_t bound = steps_;
    for (auto& [id, sample] : samples_) {
      bound += sample.target + longest;
      if (id >= first) sample.latest_step = bound;
    }
  }

  void AddToken(SimulatedSample& sample, uint32_t token) const {
    sample.tokens.push_back(token);
    const uint64_t before = sample.prefix_hash.empty() ? sample.epoch : sample.prefix_hash.back();
    sample.prefix_hash.push_back(Mix(before, token));
  }

  void ChangeWeights() {
    epoch_ = Mix(epoch_, 1);
    SetFairBounds(0);  // what was computed is void
    if (random_.Below(2) == 0) {
      scheduler_.RecomputeAll();
      decoding_.clear();
    } else {
      scheduler_.KeepDecoding();
    }
  }

  // Whoever is not marked mixed works under the present weights from its first token on; who is,
  // goes on over what it had.
  void FollowWeights(const StepPlan& plan) {
    std::map<SampleId, bool> mixed;
    for (const StepChunk& chunk : plan.chunks) mixed[chunk.sample] = false;
    for (const StepDraw& draw : plan.draws) mixed[draw.sample] = draw.mixed;
    for (const StepChunk& chunk : plan.chunks) {
      if (!mixed.at(chunk.sample)) continue;
      ASSERT_EQ(chunk.count, 1u) << "only who decodes keeps old keys";
      SimulatedSample& sample = samples_.at(chunk.sample);
      // Forked in the last step, with one token of a prefix left to compute.
      if (!decoding_.contains(chunk.sample)) Rehash(sample, last_epoch_);
      ASSERT_NE(sample.epoch, epoch_) << "marked without a reason";
      ++mixed_draws_;
    }
    for (const auto& [id, is_mixed] : mixed) {
      if (!is_mixed) Rehash(samples_.at(id), epoch_);
    }
  }

  void Rehash(SimulatedSample& sample, uint64_t epoch) const {
    if (sample.epoch == epoch) return;
    sample.epoch = epoch;
    sample.prefix_hash.clear();
    for (const uint32_t token : std::exchange(sample.tokens, {})) AddToken(sample, token);
  }

  void CancelRandom() {
    auto it = live_groups_.begin();
    std::advance(it, random_.Below(live_groups_.size()));
    scheduler_.Cancel(it->first);
    for (const SampleId id : it->second) samples_.erase(id);
    live_groups_.erase(it);
  }

  void Step() {
    const StepPlan plan = scheduler_.Plan();
    ASSERT_EQ(plan.empty(), scheduler_.idle());
    if (plan.empty()) return;
    ++steps_;
    cache_hits_ += plan.cache_hits;
    ASSERT_LE(plan.cache_hits, plan.cache_lookups);
    FollowWeights(plan);
    if (testing::Test::HasFatalFailure()) return;
    CheckLimits(plan);
    for (const BlockCopy& copy : plan.copies) cache_[copy.to] = cache_[copy.from];
    copies_ += plan.copies.size();
    preemptions_ += plan.preempted.size();
    Execute(plan);
    Draw(plan);
    last_epoch_ = epoch_;
  }

  void CheckLimits(const StepPlan& plan) {
    ASSERT_LE(plan.rows, options_.max_step_tokens);
    ASSERT_LE(scheduler_.num_running(), options_.max_running_samples);
    std::set<SampleId> in_step;
    for (const StepChunk& chunk : plan.chunks) ASSERT_TRUE(in_step.insert(chunk.sample).second);
    // The oldest unfinished sample never loses its blocks.
    for (const SampleId id : plan.preempted) ASSERT_NE(id, samples_.begin()->first);
    // Decoding samples were served in every step or preempted.
    for (const SampleId id : decoding_) {
      if (!samples_.contains(id)) continue;
      const bool preempted =
          std::find(plan.preempted.begin(), plan.preempted.end(), id) != plan.preempted.end();
      ASSERT_TRUE(preempted || in_step.contains(id)) << "sample " << id << " was left out";
    }
    decoding_.clear();
  }

  void Execute(const StepPlan& plan) {
    std::map<std::pair<uint32_t, uint32_t>, SampleId> written;
    // Writes of the step come first, as in a layer of the model: all keys and values, then
    // attention.
    for (const StepChunk& chunk : plan.chunks) {
      const SimulatedSample& sample = samples_.at(chunk.sample);
      const auto blocks = plan.blocks(chunk);
      ASSERT_GE(blocks.size() * options_.block_tokens, chunk.begin + chunk.count);
      for (uint32_t t = chunk.begin; t < chunk.begin + chunk.count; ++t) {
        const uint32_t block = blocks[t / options_.block_tokens];
        const uint32_t slot = t % options_.block_tokens;
        ASSERT_TRUE(written.insert({{block, slot}, chunk.sample}).second)
            << "two writers of one slot";
        cache_[block][slot] = sample.prefix_hash[t];
      }
    }
    for (const StepChunk& chunk : plan.chunks) {
      const SimulatedSample& sample = samples_.at(chunk.sample);
      const auto blocks = plan.blocks(chunk);
      for (uint32_t t = 0; t < chunk.begin + chunk.count; ++t) {
        ASSERT_EQ(cache_[blocks[t / options_.block_tokens]][t % options_.block_tokens],
                  sample.prefix_hash[t])
            << "sample " << chunk.sample << " reads a foreign past at token " << t;
      }
    }
  }

  void Draw(const StepPlan& plan) {
    std::vector<uint64_t> rows(plan.rows);
    for (const StepChunk& chunk : plan.chunks) {
      for (uint32_t i = 0; i < chunk.count; ++i) {
        rows[chunk.first_row + i] = samples_.at(chunk.sample).prefix_hash[chunk.begin + i];
      }
    }
    std::set<uint32_t> drawn_rows;
    std::vector<SampleId> finished;
    for (const StepDraw& draw : plan.draws) {
      SimulatedSample& sample = samples_.at(draw.sample);
      ASSERT_EQ(draw.position, sample.prefix_hash.size());
      ASSERT_EQ(rows[draw.row], sample.prefix_hash.back()) << "drawn from another text's logits";
      if (!drawn_rows.insert(draw.row).second) ++shared_draws_;
      // Few different tokens, so that completions of one prompt part late.
      AddToken(sample, static_cast<uint32_t>(random_.Below(10) == 0));
      if (sample.prefix_hash.size() >= sample.target) {
        finished.push_back(draw.sample);
      } else {
        decoding_.insert(draw.sample);
      }
    }
    scheduler_.Complete(plan, finished);
    for (const SampleId id : finished) {
      ASSERT_LE(steps_, samples_.at(id).latest_step) << "sample " << id << " was starved";
      const GroupId group = samples_.at(id).group;
      samples_.erase(id);
      live_groups_[group].erase(id);
      if (live_groups_[group].empty()) live_groups_.erase(group);
    }
  }

  PhiloxStream random_;
  const SchedulerOptions options_;
  Scheduler scheduler_;
  std::vector<std::vector<uint64_t>> cache_;
  std::map<SampleId, SimulatedSample> samples_;
  std::map<GroupId, std::set<SampleId>> live_groups_;
  std::set<SampleId> decoding_;
  uint64_t epoch_ = 17;
  uint64_t last_epoch_ = 17;  // in the last step
  uint64_t steps_ = 0;
  uint64_t preemptions_ = 0;
  uint64_t copies_ = 0;
  uint64_t shared_draws_ = 0;
  uint64_t cache_hits_ = 0;
  uint64_t mixed_draws_ = 0;
};

// ROLLCALL_WORKLOADS, 4000 unless set.
uint64_t Workloads() {
  const char* text = std::getenv("ROLLCALL_WORKLOADS");
  uint64_t workloads = 4000;
  if (text != nullptr && !absl::SimpleAtoi(text, &workloads)) ADD_FAILURE() << text;
  return workloads;
}

class SchedulerSimulationTest : public ::testing::TestWithParam<bool> {};

TEST_P(SchedulerSimulationTest, EverybodyFinishesAndNoBlockLeaks) {
  const uint64_t workloads = Workloads();
  uint64_t preemptions = 0, copies = 0, shared_draws = 0, cache_hits = 0, mixed_draws = 0;
  for (uint64_t seed = 0; seed < workloads; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    PhiloxStream random(seed, 0);
    SchedulerOptions options;
    options.block_tokens = 1 + static_cast<uint32_t>(random.Below(8));
    options.num_blocks = 4 + static_cast<uint32_t>(random.Below(60));
    options.max_running_samples = 1 + static_cast<uint32_t>(random.Below(12));
    options.max_waiting_samples = 1 + static_cast<uint32_t>(random.Below(40));
    options.max_step_tokens = 1 + static_cast<uint32_t>(random.Below(48));
    Simulation simulation(seed, options, GetParam());
    simulation.Run();
    if (HasFailure()) return;
    preemptions += simulation.preemptions();
    copies += simulation.copies();
    shared_draws += simulation.shared_draws();
    cache_hits += simulation.cache_hits();
    mixed_draws += simulation.mixed_draws();
  }
  // The workloads reach what they are meant to test.
  EXPECT_GT(preemptions, workloads);
  EXPECT_GT(copies, workloads);
  EXPECT_GT(shared_draws, workloads);
  EXPECT_GT(mixed_draws, workloads);
  if (GetParam()) {
    EXPECT_GT(cache_hits, workloads);
  } else {
    EXPECT_EQ(cache_hits, 0u);
  }
}

INSTANTIATE_TEST_SUITE_P(PrefixCache, SchedulerSimulationTest, ::testing::Bool());

}  // namespace
}  // namespace rollcall::generator
