#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/cli/rlaif/item_log.h"

namespace rollcall::cli {

// A step of the chain that ended well.
struct FinishedStep {
  std::string name;    // "revisions"
  std::string folder;  // in the run folder: "2-revisions"
  StepInputs inputs;
  // Files of `folder`, with the SHA-256 of their bytes.
  std::map<std::string, std::string> files;
  // Counts and figures, all that was left out among them.
  nlohmann::ordered_json summary;
};

// <run folder>/chain.json, which says what is done: replaced atomically each time a step ends, so that it never speaks of
// files that are not whole. A function of what was done, not of when or in how many starts:
//   {"format": 1, "steps": [{"name": "answers", "folder": "1-answers", "inputs": {"seed": "0", …},
//                            "files": {"answers.jsonl": "<sha-256>"}, "summary": {"answers": 512, …}}, …]}
// in the order in which the steps ended. Not thread-safe.
class ChainState {
 public:
  // An absent file is a chain of which nothing is done. DATA_LOSS: the file is no such state.
  static absl::StatusOr<ChainState> Load(const std::string& run_folder);

  // The step, nullptr when it is not done. FAILED_PRECONDITION: it was done with other inputs, or one of its files is not
  // what it was; the message says which and what to do.
  absl::StatusOr<const FinishedStep*> Find(const std::string& name, const StepInputs& inputs) const;

  absl::Status Add(FinishedStep step);
  const std::vector<FinishedStep>& steps() const { return steps_; }

 private:
  explicit ChainState(std::string run_folder) : run_folder_(std::move(run_folder)) {}
  absl::Status Read(const std::string& json);

  std::string run_folder_;
  std::vector<FinishedStep> steps_;
};

}  // namespace rollcall::cli
