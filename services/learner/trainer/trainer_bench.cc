// Learner throughput on the demo's model: one GRPO step with its KL term, forward, backward and
// optimizer.
//   learner_trainer_bench [--benchmark_filter=…]
#include <benchmark/benchmark.h>

#include "services/learner/trainer/tiny_runs.h"

namespace rollcall::learner {
namespace {

// The demo's batch: 32 prompts of 8 characters, 8 completions of 26 tokens each (demo_task.md).
TrainBatch DemoBatch() {
  PhiloxStream random(1, 2);
  TrainBatch batch;
  for (uint64_t group = 0; group < 32; ++group) {
    batch.group_ids.push_back(group);
    for (uint32_t sample = 0; sample < 8; ++sample) {
      TrainSequence sequence;
      sequence.group_id = group;
      sequence.sample_index = sample;
      for (int i = 0; i < 34; ++i) {
        sequence.token_ids.push_back(static_cast<uint32_t>(random.Below(16)));
        sequence.loss_mask.push_back(i >= 8 ? 1 : 0);
      }
      sequence.behavior_logprobs.assign(34, -2.5f);
      sequence.reference_logprobs.assign(34, -2.5f);
      sequence.reward = static_cast<double>(sample % 2);
      batch.sequences.push_back(std::move(sequence));
    }
  }
  return batch;
}

void BM_GrpoStep(benchmark::State& state) {
  const model::testing::ThreadCount scope(static_cast<int>(state.range(0)));
  const TrainBatch batch = DemoBatch();
  const auto trainer = testing::NewTrainer(testing::TinyRun(v1::STAGE_RL),
                                           testing::NewDecoder(testing::DemoModel(), 1));
  std::map<std::string, double> sums;
  double tokens = 0;
  for (auto _ : state) {
    const auto report = trainer->TrainStep(batch);
    if (!report.ok()) {
      state.SkipWithError(std::string(report.status().message()).c_str());
      return;
    }
    tokens += report->metrics.at("train/tokens");
    for (const char* phase : {"forward", "backward", "optimizer"}) {
      sums[phase] += report->metrics.at(std::string("time/") + phase + "_seconds");
    }
  }
  state.counters["tokens/s"] = benchmark::Counter(tokens, benchmark::Counter::kIsRate);
  const auto steps = static_cast<double>(state.iterations());
  for (const auto& [phase, seconds] : sums) state.counters[phase + "_ms"] = 1e3 * seconds / steps;
}
BENCHMARK(BM_GrpoStep)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();

}  // namespace
}  // namespace rollcall::learner

BENCHMARK_MAIN();
