#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/cli/rlaif/generator_client.h"
#include "services/cli/rlaif/item_log.h"

namespace rollcall::cli {

// What a step leaves: the bytes of its files by their names, and its summary.
struct StepOutput {
  std::map<std::string, std::string> files;
  nlohmann::ordered_json summary;
};

// The model that a step asks, while it is served.
struct ServedModel {
  const GeneratorClient& client;
  const text::Tokenizer& tokenizer;
  uint32_t context_length = 0;  // tokens, prompt and completion
};

// A step of the chain that asks a model about many items, each by itself. Constant after construction.
class SamplingStep {
 public:
  using Json = nlohmann::ordered_json;
  // An item's parts that are done, in order.
  using Parts = std::vector<Json>;
  // Hands over the next part of the item; false: the step is being stopped.
  using Emit = std::function<bool(Json part)>;

  virtual ~SamplingStep() = default;

  virtual StepInputs Inputs() const = 0;
  // Numbers of the items, ascending.
  virtual std::vector<uint64_t> Items() const = 0;
  // Samples of one call, at most.
  virtual uint32_t CallSize() const = 0;
  virtual bool Complete(const Parts& parts) const = 0;
  // Makes the parts that follow `done`. On any thread, of several items at once; blocks. What is emitted is a function of
  // inputs, weights and item alone.
  virtual absl::Status Work(uint64_t item, Parts done, const ServedModel& model,
                            const Emit& emit) const = 0;
  // From the parts of all items. FAILED_PRECONDITION: nothing is left for the next step.
  virtual absl::StatusOr<StepOutput> Conclude(const std::map<uint64_t, Parts>& items) const = 0;
};

// The items of a log, by number.
std::map<uint64_t, SamplingStep::Parts> PartsOf(const ItemLog& log);

// Does what `log` lacks of the step, on as many threads as keep a generator busy, and appends each part when it is done.
// `look` is called on this thread, several times a second, with the number of items that are complete; what it returns
// other than OK ends the work, as the first failed item does.
absl::Status RunItems(const SamplingStep& step, const ServedModel& model, ItemLog& log,
                      ActiveCalls& calls, const std::function<absl::Status(uint64_t)>& look);

}  // namespace rollcall::cli
