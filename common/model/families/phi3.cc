#include "absl/strings/str_cat.h"
#include "common/model/families/family.h"

namespace rollcall::model {
namespace {

using Json = nlohmann::json;

void SetDefaults(ModelConfig& config) {
  config.max_position_embeddings = 4096;
  config.rms_norm_eps = 1e-5;
  config.bos_token_id = 1;
  config.eos_token_ids = {32000};
  config.pad_token_id = 32000;
}

// Only a first part of each head may be rotated, and "su" and "yarn" are old names of "longrope".
void ReadPhiRope(ConfigReader& reader, ModelConfig& config) {
  reader.Positive("rope_theta", false, &config.rope.theta);
  const char* field = reader.Has("rope_scaling") ? "rope_scaling" : "rope_parameters";
  Json object = reader.Has(field) ? reader.Get(field) : Json::object();
  if (!object.is_object()) return reader.Fail(field, "an object");

  double rotated = 1.0;
  reader.Positive("partial_rotary_factor", false, &rotated);
  ConfigReader inner(object, absl::StrCat(field, "."));
  inner.Positive("partial_rotary_factor", false, &rotated);
  reader.Update(inner.status());
  if (rotated > 1) return reader.Fail("partial_rotary_factor", "at most 1");
  config.rotary_dim = static_cast<int64_t>(static_cast<double>(config.head_dim) * rotated);

  const char* type_field = inner.Has("rope_type") ? "rope_type" : "type";
  const Json type = inner.Get(type_field);
  if (type == "su" || type == "yarn") object[type_field] = "longrope";
  if (!type.is_null() && object[type_field] != "longrope" && type != "default") {
    return reader.Update(
        UnsupportedError(inner.Name(type_field), type, R"("default", "longrope")"));
  }
  // In this family the trained context is a field of the model, with a default of its own.
  if (!reader.Has("original_max_position_embeddings")) {
    object["original_max_position_embeddings"] = 4096;
  }
  ReadRopeObject(object, field, config, reader, config.rope);
}

void Read(ConfigReader& reader, ModelConfig& config) {
  reader.RefuseUnless("attention_bias", false);
  ReadPhiRope(reader, config);
  ReadWindowOfAllLayers(reader, config);
}

}  // namespace

const Family kPhi3 = {
    .model_type = "phi3",
    .prefix = "Phi3",
    .score_prefix = "Phi3",
    .models = "Phi-3, Phi-3.5, Phi-4 and their mini versions",
    .features = "fused projections, long rope",
    .names = {.query_key_value = "self_attn.qkv_proj", .gate_up = "mlp.gate_up_proj"},
    .set_defaults = SetDefaults,
    .read = Read};

}  // namespace rollcall::model
