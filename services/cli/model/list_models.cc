#include "services/cli/model/list_models.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/shutdown.h"
#include "common/model/families/family.h"

namespace rollcall::cli {
namespace {

using model::Family;

std::vector<std::string> Architectures(const Family& family) {
  return {absl::StrCat(family.prefix, "ForCausalLM"),
          absl::StrCat(family.score_prefix, "ForSequenceClassification"),
          absl::StrCat(family.score_prefix, "ForTokenClassification")};
}

std::string FormatText() {
  std::string text = absl::StrFormat("%-12s  %s\n", "model_type", "models: what is special");
  for (const Family* family : model::Families()) {
    absl::StrAppend(&text, absl::StrFormat("%-12s  %s: %s\n", family->model_type, family->models,
                                           family->features));
  }
  return text +
         "Each as a language model (…ForCausalLM), a reward model (…ForSequenceClassification,\n"
         "one label) or a value model (…ForTokenClassification, one label).\n";
}

std::string FormatJson() {
  nlohmann::json list = nlohmann::json::array();
  for (const Family* family : model::Families()) {
    list.push_back({{"model_type", family->model_type},
                    {"models", family->models},
                    {"features", family->features},
                    {"architectures", Architectures(*family)}});
  }
  return nlohmann::json({{"families", list}}).dump() + "\n";
}

}  // namespace

int RunModels(std::span<const std::string> arguments, std::ostream& out, std::ostream& errors) {
  CLI::App app("List the model families of this build", "rollcall models");
  bool json = false;
  app.add_flag("--json", json, "One JSON object instead of lines");
  try {
    // CLI11 takes the arguments from the back.
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ParseError& error) {
    return app.exit(error, out, errors) == 0 ? kExitClean : kExitUsage;
  }
  out << (json ? FormatJson() : FormatText());
  return kExitClean;
}

}  // namespace rollcall::cli
