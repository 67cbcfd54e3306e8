#include "services/cli/explain/batch_arithmetic.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/config/preference_rules.h"

namespace rollcall::explain {
namespace {

using inspect::Grouped;

uint64_t CeilDivide(uint64_t a, uint64_t b) { return b == 0 ? 0 : (a + b - 1) / b; }

std::string Number(uint64_t value) { return Grouped(static_cast<int64_t>(value)); }

std::string Count(uint64_t value, const std::string& noun) {
  return absl::StrCat(Number(value), " ", noun,
                      value == 1                ? ""
                      : noun.ends_with("batch") ? "es"
                                                : "s");
}

std::string OnPolicyText(const v1::RunConfig& config, const BatchArithmetic& batch) {
  if (batch.on_policy_steps == 0) {
    return absl::StrCat("none: rollouts may be ", config.learner().max_staleness(),
                        " versions old (learner.max_staleness)");
  }
  if (batch.optimizer_steps == 1) {
    return "every step: the ratio is exactly 1, so clipping changes nothing and the gradient is "
           "that of the policy gradient";
  }
  return absl::StrCat("the first of the ", batch.optimizer_steps,
                      " steps of a rollout batch, with ratio exactly 1; the other ",
                      batch.optimizer_steps - 1, " see weights that moved since the rollout");
}

std::string MicroBatchText(const v1::RunConfig& config, const BatchArithmetic& batch) {
  const uint64_t budget = config.learner().micro_batch_tokens();
  std::string text =
      absl::StrCat("by tokens, at most ", Number(budget), " each; sequences of up to ",
                   Number(batch.longest_sequence), " tokens: at most ",
                   Count(batch.most_micro_batches, "micro-batch"), " a mini-batch");
  absl::StrAppend(&text, "; their number never changes the gradient");
  if (config.learner().ranks() > 1) {
    absl::StrAppend(&text, "; shared by ", config.learner().ranks(), " ranks");
  }
  return text;
}

// What a row of recorded data is.
std::string UnitOf(v1::Stage stage) {
  if (config::ReadsPairs(stage)) return "pair";
  return stage == v1::STAGE_KTO ? "labelled completion" : "sequence";
}

std::string RecordedBatchText(const v1::RunConfig& config, const BatchArithmetic& batch,
                              const std::string& unit) {
  if (batch.samples == 1) return Count(batch.sequences, unit);
  std::string text =
      absl::StrCat(Count(batch.prompts, unit), " = ", Count(batch.sequences, "sequence"));
  if (config.stage() == v1::STAGE_KTO) {
    absl::StrAppend(&text,
                    ": each completion, and its prompt with another one's completion, which is "
                    "scored and not trained on");
  } else {
    absl::StrAppend(&text, ", chosen and rejected in one forward pass");
  }
  return text;
}

void AddRows(uint64_t total, uint64_t rows, const std::string& noun, std::vector<Line>& lines) {
  std::string text = absl::StrCat(Count(total, noun), " in the whole run");
  if (rows > 0) {
    absl::StrAppend(&text, absl::StrFormat(", %.2f passes over %s",
                                           static_cast<double>(total) / static_cast<double>(rows),
                                           Count(rows, "row")));
  }
  lines.push_back({"data", std::move(text)});
}

}  // namespace

BatchArithmetic CountBatch(const v1::RunConfig& config, uint64_t context) {
  BatchArithmetic batch;
  const bool rl = config.stage() == v1::STAGE_RL;
  const v1::AlgorithmSection& algorithm = config.algorithm();
  batch.longest_sequence =
      static_cast<uint64_t>(config.data().max_prompt_tokens()) + config.sampling().max_tokens();
  // The length of a recorded sequence has no setting of its own.
  if (!rl && config.stage() != v1::STAGE_EVAL && context > 0) batch.longest_sequence = context;
  if (context > 0) batch.longest_sequence = std::min(batch.longest_sequence, context);
  if (config.stage() == v1::STAGE_EVAL) {
    batch.samples = config.evaluation().samples_per_prompt();
    return batch;
  }
  batch.prompts = config.learner().prompts_per_step();
  // kto: each completion, and its prompt with another one's completion.
  const bool twos = config::ReadsPairs(config.stage()) || config.stage() == v1::STAGE_KTO;
  batch.samples = rl ? algorithm.samples_per_prompt() : twos ? 2 : 1;
  const bool greedy = rl && algorithm.advantage_baseline() == v1::ADVANTAGE_BASELINE_GREEDY;
  batch.extra_samples = greedy ? 1 : 0;
  batch.sequences = batch.prompts * batch.samples;
  batch.mini_batches = rl ? std::max(algorithm.mini_batches(), 1u) : 1;
  batch.mini_batch_sequences = CeilDivide(batch.sequences, batch.mini_batches);
  const uint64_t together =
      std::max<uint64_t>(config.learner().micro_batch_tokens() / batch.longest_sequence, 1);
  batch.most_micro_batches = CeilDivide(batch.mini_batch_sequences, together);
  batch.optimizer_steps =
      batch.mini_batches * (rl ? std::max(algorithm.epochs_per_batch(), 1u) : 1);
  batch.on_policy_steps = rl && config.learner().max_staleness() == 0 ? 1 : 0;
  batch.total_optimizer_steps = batch.optimizer_steps * config.learner().steps();
  batch.total_prompts = batch.prompts * config.learner().steps();
  return batch;
}

std::vector<Line> DescribeBatch(const v1::RunConfig& config, const BatchArithmetic& batch,
                                uint64_t training_rows) {
  std::vector<Line> lines;
  if (config.stage() == v1::STAGE_EVAL) {
    lines.push_back({"evaluation", absl::StrCat(Count(batch.samples, "sample"), " a prompt")});
    return lines;
  }
  if (config.stage() != v1::STAGE_RL) {
    const std::string unit = UnitOf(config.stage());
    lines.push_back({"batch", RecordedBatchText(config, batch, unit)});
    lines.push_back({"micro-batches", MicroBatchText(config, batch)});
    lines.push_back(
        {"optimizer", absl::StrCat("one step a batch, ", Count(batch.total_optimizer_steps, "step"),
                                   " in the whole run")});
    AddRows(batch.total_prompts, training_rows, unit, lines);
    return lines;
  }
  lines.push_back(
      {"rollout batch",
       absl::StrCat(Count(batch.prompts, "prompt"), " × ", Count(batch.samples, "sample"), " = ",
                    Count(batch.sequences, "sequence"),
                    batch.extra_samples > 0 ? ", and a greedy one for each prompt" : "")});
  lines.push_back(
      {"mini-batches",
       absl::StrCat(batch.mini_batches, " of ", Count(batch.mini_batch_sequences, "sequence"), " (",
                    Count(batch.prompts / batch.mini_batches, "whole group"), ")")});
  lines.push_back({"micro-batches", MicroBatchText(config, batch)});
  lines.push_back({"optimizer",
                   absl::StrCat(Count(batch.mini_batches, "mini-batch"), " × ",
                                Count(std::max(config.algorithm().epochs_per_batch(), 1u), "epoch"),
                                " = ", Count(batch.optimizer_steps, "step"), " a rollout batch, ",
                                Count(batch.total_optimizer_steps, "step"), " in the whole run")});
  lines.push_back({"on-policy", OnPolicyText(config, batch)});
  AddRows(batch.total_prompts, training_rows, "prompt", lines);
  return lines;
}

}  // namespace rollcall::explain
