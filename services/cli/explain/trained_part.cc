#include "services/cli/explain/trained_part.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/config/run_config.h"
#include "common/model/peft_config.h"

namespace rollcall::explain {
namespace {

using inspect::Grouped;
using inspect::HumanBytes;

constexpr int64_t kFloat = 4;  // bytes

std::string AdapterText(const model::LoraConfig& adapter) {
  return absl::StrCat("rank ", adapter.r, " beside ", absl::StrJoin(adapter.target_modules, ", "),
                      ", product times ", adapter.Scale());
}

}  // namespace

absl::StatusOr<std::optional<model::LoraConfig>> AdapterOf(const v1::RunConfig& config,
                                                           const model::ModelConfig& model) {
  const v1::LoraSection& lora = config.model().lora();
  if (!config::AsksAdapter(config.model())) return std::optional<model::LoraConfig>();
  if (!lora.path().empty()) {
    const std::string file = lora.path() + "/adapter_config.json";
    ROLLCALL_ASSIGN_OR_RETURN(const std::string json, ReadFile(file));
    ROLLCALL_ASSIGN_OR_RETURN(model::LoraConfig read, model::ReadPeftConfig(json, file, model));
    return std::optional<model::LoraConfig>(std::move(read));
  }
  auto resolved = model::ResolveLora(
      {.r = lora.r(),
       .alpha = lora.alpha(),
       .rslora = lora.rslora(),
       .target_modules = {lora.target_modules().begin(), lora.target_modules().end()},
       .base_model = ""},
      model);
  if (!resolved.ok()) return Annotate(resolved.status(), "model.lora");
  return std::optional<model::LoraConfig>(*std::move(resolved));
}

TrainedPart DescribeTrained(const v1::RunConfig& config,
                            const absl::StatusOr<model::ModelConfig>& model) {
  TrainedPart part;
  if (config.stage() == v1::STAGE_EVAL || !model.ok()) return part;
  const auto adapter = AdapterOf(config, *model);
  if (!adapter.ok()) {
    part.lines.push_back({"adapter", std::string(adapter.status().message())});
    return part;
  }
  const bool narrow = config.model().dtype() == v1::COMPUTE_DTYPE_BFLOAT16;
  part.parameters = model->ParameterCount();
  part.trained = *adapter ? inspect::AdapterElements(*model, **adapter) : model->ParameterCount();
  const bool masters = narrow && !*adapter;
  part.optimizer_bytes = part.trained * (2 * kFloat + (masters ? kFloat : 0));
  part.published_bytes = part.trained * (masters ? 2 : kFloat);
  if (*adapter) part.lines.push_back({"adapter", AdapterText(**adapter)});
  part.lines.push_back(
      {"parameters",
       absl::StrCat(Grouped(part.trained), " of ", Grouped(part.parameters),
                    absl::StrFormat(" (%.3g %%)", 100.0 * static_cast<double>(part.trained) /
                                                      static_cast<double>(part.parameters)))});
  part.lines.push_back(
      {"optimizer",
       absl::StrCat(Grouped(part.optimizer_bytes), " B = ", HumanBytes(part.optimizer_bytes),
                    " of state: two moments", masters ? " and masters, float32" : ", float32")});
  if (config.stage() == v1::STAGE_RL) {
    part.lines.push_back({"sent", absl::StrCat(Grouped(part.published_bytes),
                                               " B = ", HumanBytes(part.published_bytes),
                                               " a version to each generator")});
  }
  return part;
}

}  // namespace rollcall::explain
