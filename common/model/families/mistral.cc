#include "common/model/families/family.h"

namespace rollcall::model {
namespace {

void SetDefaults(ModelConfig& config) {
  config.num_kv_heads = 8;
  config.max_position_embeddings = 131072;
  config.sliding_window = 4096;
  config.bos_token_id = 1;
  config.eos_token_ids = {2};
}

void Read(ConfigReader& reader, ModelConfig& config) {
  ReadRope(reader, config);
  ReadWindowOfAllLayers(reader, config);
}

}  // namespace

const Family kMistral = {.model_type = "mistral",
                         .prefix = "Mistral",
                         .score_prefix = "Mistral",
                         .models = "Mistral 7B, Nemo, Small 3",
                         .features = "sliding window in every layer",
                         .set_defaults = SetDefaults,
                         .read = Read};

}  // namespace rollcall::model
