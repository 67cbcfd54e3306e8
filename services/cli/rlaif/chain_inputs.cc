#include "services/cli/rlaif/chain_inputs.h"

#include <google/protobuf/message.h>

#include "absl/strings/str_cat.h"
#include "common/config/field_rules.h"
#include "common/config/yaml.h"
#include "common/wire/sha256.h"

namespace rollcall::cli {
namespace {

constexpr size_t kDigits = 16;

std::string HashOf(const google::protobuf::Message& section) {
  return ShortHash(config::FormatYaml(section, config::Secrets::kKeep));
}

// A finished step: the bytes of what it left, and what it was made from.
std::string HashOf(ChainStep step, const ChainState& state) {
  for (const FinishedStep& finished : state.steps()) {
    if (finished.name != StepName(step)) continue;
    std::string text;
    for (const auto& [name, value] : finished.inputs)
      absl::StrAppend(&text, name, "=", value, "\n");
    for (const auto& [file, hash] : finished.files) absl::StrAppend(&text, file, "=", hash, "\n");
    return ShortHash(text);
  }
  return "";
}

// How the weights of model.path are read.
std::string Precision(const v1::ModelSection& model) {
  const auto* dtype = v1::ComputeDtype_descriptor()->FindValueByNumber(model.dtype());
  return absl::StrCat(dtype == nullptr ? "" : config::EnumName(*dtype), ", context ",
                      model.context_tokens());
}

// Of the columns and rules by which data files are read, without the files.
std::string ReadingHash(const v1::DataSection& data) {
  v1::DataSection rules = data;
  rules.clear_train();
  rules.clear_evaluation();
  return HashOf(rules);
}

}  // namespace

std::string ShortHash(std::string_view bytes) {
  return wire::ToHex(wire::Sha256Of(bytes)).substr(0, kDigits);
}

StepInputs InputsOf(ChainStep step, const v1::RunConfig& config, const ChainContents& contents,
                    const ChainState& state) {
  const v1::RlaifSection& rlaif = config.rlaif();
  StepInputs inputs = {{"seed", absl::StrCat(config.seed())}, {"model", Precision(config.model())}};
  switch (step) {
    case ChainStep::kAnswers:
      inputs.insert({{"model.path", config.model().path()},
                     {"data", ReadingHash(config.data())},
                     {"prompts", contents.prompts},
                     {"sampling", HashOf(config.sampling())}});
      break;
    case ChainStep::kRevisions:
      inputs.insert({{"rlaif.critic_path", CriticPath(config)},
                     {"rlaif.constitution", contents.constitution},
                     {"rlaif.revisions", absl::StrCat(rlaif.revisions())},
                     {"rlaif.feedback_sampling", HashOf(rlaif.feedback_sampling())},
                     {"answers", HashOf(ChainStep::kAnswers, state)}});
      break;
    case ChainStep::kSft:
      inputs.insert({{"model.path", config.model().path()},
                     {"rlaif.sft", HashOf(rlaif.sft())},
                     {"revisions", HashOf(ChainStep::kRevisions, state)}});
      break;
    case ChainStep::kSamples:
      inputs.insert({{"sampling", HashOf(config.sampling())},
                     {"rlaif.answers_per_prompt", absl::StrCat(rlaif.answers_per_prompt())},
                     {"prompts", contents.prompts},
                     {"sft", HashOf(ChainStep::kSft, state)}});
      break;
    case ChainStep::kPreferences:
      inputs.insert({{"rlaif.judge_path", JudgePath(config)},
                     {"rlaif.constitution", contents.constitution},
                     {"samples", HashOf(ChainStep::kSamples, state)}});
      break;
    case ChainStep::kDpo:
      inputs.insert({{"rlaif.dpo", HashOf(rlaif.dpo())},
                     {"preference", HashOf(config.preference())},
                     {"preferences", HashOf(ChainStep::kPreferences, state)}});
      break;
    case ChainStep::kRewardModel:
      inputs.insert(
          {{"rlaif.reward_model", HashOf(rlaif.reward_model())},
           {"learner.reward_centering", absl::StrCat(config.learner().reward_centering())},
           {"preferences", HashOf(ChainStep::kPreferences, state)}});
      break;
    case ChainStep::kPpo:
      inputs.insert({{"rlaif.ppo", HashOf(rlaif.ppo())},
                     {"algorithm", HashOf(config.algorithm())},
                     {"sampling", HashOf(config.sampling())},
                     {"learner.critic", HashOf(config.learner().critic())},
                     {"reward_model", HashOf(ChainStep::kRewardModel, state)}});
      break;
  }
  return inputs;
}

StepInputs EvaluationInputs(const ChainStep* step, const v1::RunConfig& config,
                            const ChainContents& contents, const ChainState& state) {
  return {{"seed", absl::StrCat(config.seed())},
          {"model", Precision(config.model())},
          {"data", ReadingHash(config.data())},
          {"data.evaluation", contents.held_out},
          {"sampling", HashOf(config.sampling())},
          {"evaluation", HashOf(config.evaluation())},
          {"reward", HashOf(config.reward())},
          {"policy", step == nullptr ? config.model().path() : HashOf(*step, state)}};
}

}  // namespace rollcall::cli
