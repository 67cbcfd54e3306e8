#include "services/cli/rlaif/chain_state.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/wire/sha256.h"

namespace rollcall::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kFormat = 1;

Json ToJson(const FinishedStep& step) {
  return {{"name", step.name},
          {"folder", step.folder},
          {"inputs", step.inputs},
          {"files", step.files},
          {"summary", step.summary}};
}

}  // namespace

absl::StatusOr<ChainState> ChainState::Load(const std::string& run_folder) {
  ChainState state(run_folder);
  const absl::StatusOr<std::string> json = ReadFile(run_folder + "/chain.json");
  if (absl::IsNotFound(json.status())) return state;
  ROLLCALL_RETURN_IF_ERROR(json.status());
  ROLLCALL_RETURN_IF_ERROR(state.Read(*json));
  return state;
}

absl::Status ChainState::Read(const std::string& text) {
  const std::string path = run_folder_ + "/chain.json";
  try {
    const Json json = Json::parse(text);
    if (json.at("format") != kFormat) {
      return absl::DataLossError(absl::StrCat(path, ": format ", json.at("format").dump(),
                                              ", this build knows ", kFormat));
    }
    for (const Json& step : json.at("steps")) {
      steps_.push_back({.name = step.at("name").get<std::string>(),
                        .folder = step.at("folder").get<std::string>(),
                        .inputs = step.at("inputs").get<StepInputs>(),
                        .files = step.at("files").get<std::map<std::string, std::string>>(),
                        .summary = step.at("summary")});
    }
  } catch (const Json::exception& error) {
    return absl::DataLossError(absl::StrCat(path, ": not the state of a chain: ", error.what()));
  }
  return absl::OkStatus();
}

absl::StatusOr<const FinishedStep*> ChainState::Find(const std::string& name,
                                                     const StepInputs& inputs) const {
  for (const FinishedStep& step : steps_) {
    if (step.name != name) continue;
    const std::string folder = absl::StrCat(run_folder_, "/", step.folder);
    if (const absl::Status same = CheckInputs(step.inputs, inputs); !same.ok()) {
      return absl::FailedPreconditionError(
          absl::StrCat(folder, ": ", std::string(same.message()),
                       ". Undo that, or give the run another --set name=…"));
    }
    for (const auto& [file, hash] : step.files) {
      ROLLCALL_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(absl::StrCat(folder, "/", file)));
      if (wire::ToHex(wire::Sha256Of(bytes)) == hash) continue;
      return absl::FailedPreconditionError(
          absl::StrCat(folder, "/", file,
                       ": was changed since its step ended, and later steps build on it. Put "
                       "it back, or give the run another --set name=…"));
    }
    return &step;
  }
  return static_cast<const FinishedStep*>(nullptr);
}

absl::Status ChainState::Add(FinishedStep step) {
  steps_.push_back(std::move(step));
  Json steps = Json::array();
  for (const FinishedStep& each : steps_) steps.push_back(ToJson(each));
  const Json json = {{"format", kFormat}, {"steps", steps}};
  return WriteFileAtomically(run_folder_ + "/chain.json", json.dump(1) + "\n");
}

}  // namespace rollcall::cli
