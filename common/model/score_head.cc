#include "common/model/score_head.h"

#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/model/families/family.h"

namespace rollcall::model {

absl::StatusOr<ModelConfig> WithScoreHead(const ModelConfig& config, Head head) {
  if (config.head == head) return config;
  if (head == Head::kLanguageModel || config.head != Head::kLanguageModel) {
    return absl::InvalidArgumentError(
        "architectures: a language model may become a reward or a value model, and nothing else");
  }
  const Family* family = FindFamily(config.family);
  if (family == nullptr) {
    return absl::UnimplementedError(absl::StrCat("model_type: no family ", config.family));
  }
  auto json = nlohmann::ordered_json::parse(config.ToJson(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("config.json: not a JSON object");
  json["architectures"] = {absl::StrCat(family->score_prefix, head == Head::kSequenceScore
                                                                  ? "ForSequenceClassification"
                                                                  : "ForTokenClassification")};
  json["id2label"] = {{"0", "LABEL_0"}};
  json["label2id"] = {{"LABEL_0", 0}};
  json.erase("num_labels");
  ROLLCALL_ASSIGN_OR_RETURN(ModelConfig scored,
                            ModelConfig::FromJson(json.dump(2) + "\n", "config.json with a score"));
  // What UseContext chose is no part of the file.
  scored.max_position_embeddings = config.max_position_embeddings;
  return scored;
}

}  // namespace rollcall::model
