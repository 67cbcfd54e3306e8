#include "services/cli/explain/chain_text.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/config/run_config.h"
#include "services/cli/explain/batch_arithmetic.h"
#include "services/cli/explain/model_memory.h"
#include "services/cli/explain/objective_text.h"
#include "services/cli/inspect/memory_estimate.h"
#include "services/cli/rlaif/chain_plan.h"
#include "services/cli/rlaif/constitution.h"

namespace rollcall::explain {
namespace {

using cli::ChainStep;
using inspect::Grouped;

std::string Number(uint64_t count) { return Grouped(static_cast<int64_t>(count)); }

class ChainText {
 public:
  ChainText(const v1::RunConfig& config, const ModelFacts& facts, uint64_t prompts)
      : config_(config), facts_(facts), rlaif_(config.rlaif()), prompts_(prompts) {
    const uint32_t most = rlaif_.max_prompts();
    if (most > 0) prompts_ = prompts == 0 ? most : std::min<uint64_t>(prompts, most);
    const auto constitution = cli::Constitution::Load(rlaif_.constitution());
    if (constitution.ok()) principles_ = constitution->size();
    explanation_.name = config.name();
    explanation_.stage = "rlaif";
  }

  Explanation Explain() {
    for (const ChainStep step : cli::StepsOf(config_)) {
      explanation_.chain.push_back({cli::StepFolder(step), StepText(step)});
      if (cli::Trains(step)) {
        AddTraining(step);
      } else {
        AddGenerator(step);
      }
    }
    if (config_.data().evaluation_size() > 0) {
      explanation_.chain.push_back(
          {"evaluation",
           "held-out prompts, scored by reward.verifiers, before the first step, "
           "after sft and at the end"});
    }
    return std::move(explanation_);
  }

 private:
  // "512 prompts", "prompts" where their number is not known.
  std::string Times(uint64_t factor, const std::string& what) const {
    if (prompts_ == 0 || factor == 0) return what;
    return absl::StrCat(what, " = ", Number(prompts_ * factor));
  }
  std::string Prompts() const {
    return prompts_ == 0 ? "prompts" : absl::StrCat(Number(prompts_), " prompts");
  }

  std::string StepText(ChainStep step) const {
    const uint64_t pairs = rlaif_.answers_per_prompt() - 1;
    const std::string steps =
        absl::StrCat("; a run of its own, config in ", cli::StepFolder(step), "/config.yaml");
    switch (step) {
      case ChainStep::kAnswers:
        return absl::StrCat("the policy answers ", Prompts(), " once each");
      case ChainStep::kRevisions:
        return absl::StrCat(
            "the critic criticises and revises each answer under a drawn principle, ",
            Times(2 * rlaif_.revisions(),
                  absl::StrCat(Prompts(), " × ", rlaif_.revisions(), " rounds × 2 calls")));
      case ChainStep::kSft:
        return "the policy learns the revisions" + steps;
      case ChainStep::kSamples:
        return absl::StrCat(
            "the fine-tuned policy answers again, ",
            Times(rlaif_.answers_per_prompt(),
                  absl::StrCat(Prompts(), " × ", rlaif_.answers_per_prompt(), " answers")));
      case ChainStep::kPreferences:
        return absl::StrCat(
            "the judge compares neighbouring answers, at most ",
            Times(pairs * principles_ * 2,
                  absl::StrCat(Prompts(), " × ", pairs, " pairs × ",
                               principles_ == 0 ? "" : absl::StrCat(principles_, " "),
                               "principles × 2 orders")),
            " calls");
      case ChainStep::kDpo:
        return "the policy learns the preferences, by the judge's probabilities" + steps;
      case ChainStep::kRewardModel:
        return "a reward model learns the preferences" + steps;
      case ChainStep::kPpo:
        return "the policy is trained against the reward model" + steps;
    }
    return "";
  }

  // Shapes are those of the initial policy: what the chain itself makes is not there yet.
  v1::RunConfig WithKnownShapes(v1::RunConfig run) const {
    const std::string& path = config_.model().path();
    run.mutable_model()->set_path(path);
    for (v1::VerifierConfig& verifier : *run.mutable_reward()->mutable_verifiers()) {
      verifier.mutable_reward_model()->set_path(path);
    }
    if (config_.learner().critic().path().empty()) {
      run.mutable_learner()->mutable_critic()->clear_path();
    }
    return run;
  }

  void Append(const std::string& phase, std::vector<Line> lines, std::vector<Line>& to) const {
    for (Line& line : lines) {
      to.push_back({absl::StrCat(phase, ": ", line.name), std::move(line.text)});
    }
  }

  void AddModels(const std::string& phase, std::vector<ModelMemory> models) {
    for (ModelMemory& model : models) {
      model.phase = phase;
      explanation_.models.push_back(std::move(model));
    }
  }

  void AddTraining(ChainStep step) {
    const auto planned = cli::TrainingConfig(step, config_, config::RunFolder(config_));
    if (!planned.ok()) {
      explanation_.warnings.push_back(
          {"training", "rlaif", std::string(planned.status().message())});
      return;
    }
    const std::string phase = cli::StepFolder(step);
    const v1::RunConfig run = WithKnownShapes(*planned);
    Append(phase, DescribeObjective(run), explanation_.objective);
    Append(phase, DescribeDenominators(run), explanation_.denominators);
    const BatchArithmetic batch = CountBatch(run, facts_.context);
    Append(phase, DescribeBatch(run, batch, step == ChainStep::kPpo ? prompts_ : 0),
           explanation_.batch_lines);
    AddModels(phase, EstimateModels(run));
    std::vector<Warning> warnings = FindWarnings(run, facts_);
    std::move(warnings.begin(), warnings.end(), std::back_inserter(explanation_.warnings));
  }

  void AddGenerator(ChainStep step) {
    v1::RunConfig run = config_;
    run.set_stage(v1::STAGE_EVAL);
    run.mutable_reward()->clear_verifiers();
    run.mutable_model()->set_path(step == ChainStep::kSamples
                                      ? config_.model().path()
                                      : cli::ModelOf(step, config_, config::RunFolder(config_)));
    std::vector<ModelMemory> models = EstimateModels(run);
    std::erase_if(models, [](const ModelMemory& model) { return model.name != "generator"; });
    AddModels(cli::StepFolder(step), std::move(models));
  }

  const v1::RunConfig& config_;
  const ModelFacts facts_;
  const v1::RlaifSection& rlaif_;
  uint64_t prompts_;
  uint64_t principles_ = 0;
  Explanation explanation_;
};

}  // namespace

Explanation ExplainChain(const v1::RunConfig& config, const ModelFacts& model, uint64_t prompts) {
  return ChainText(config, model, prompts).Explain();
}

}  // namespace rollcall::explain
