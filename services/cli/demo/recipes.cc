#include "services/cli/demo/recipes.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "services/cli/demo/addition_task.h"

namespace rollcall::cli {

std::string DemoSftYaml(const std::string& folder, uint64_t seed) {
  return absl::StrFormat(
      R"(# Stage 1: imitation. 60 %% of the demonstrations forget to carry, and so will the model.
name: sft
output_dir: %1$s
seed: %2$d
stage: sft
model: {path: %1$s/init}
data:
  train: [{path: %1$s/data/sft.jsonl}]
learner:
  steps: %3$d
  prompts_per_step: %4$d
  optimizer:
    lr: 2e-3
    schedule: cosine
    warmup_steps: 50
    min_lr_ratio: 0.1
    beta2: 0.99
    weight_decay: 0.01
  checkpoint: {every_steps: 0}
)",
      folder, seed, kDemoSftSteps, kDemoSftBatch);
}

std::string DemoGrpoYaml(const std::string& folder, uint64_t seed) {
  return absl::StrFormat(
      R"(# Stage 2: verified reward. 1 where the number behind the last "=" is right, else 0; the working is not looked at.
name: grpo
output_dir: %1$s
seed: %2$d
stage: rl
model: {path: %1$s/sft/final}
data:
  train: [{path: %1$s/data/train.jsonl}]
  evaluation: [{path: %1$s/data/held_out.jsonl}]
sampling: {temperature: 1.0, max_tokens: 32}
algorithm:
  preset: grpo
  samples_per_prompt: 8
  kl_coefficient: 0.01
reward:
  verifiers:
    - {name: correct, exact_match: {answer_column: answer, after: "="}}
learner:
  steps: %3$d
  prompts_per_step: %4$d
  optimizer:
    lr: 3e-4
    schedule: cosine
    warmup_steps: 5
    min_lr_ratio: 0.1
    beta2: 0.99
  checkpoint: {every_steps: 0}
evaluation: {at_start: true, samples_per_prompt: 4}
)",
      folder, seed, kDemoRlSteps, kDemoRlPrompts);
}

std::string DemoModelConfig() {
  const nlohmann::ordered_json config = {{"architectures", {"LlamaForCausalLM"}},
                                         {"model_type", "llama"},
                                         {"hidden_size", 128},
                                         {"intermediate_size", 256},
                                         {"num_hidden_layers", 2},
                                         {"num_attention_heads", 4},
                                         {"num_key_value_heads", 4},
                                         {"head_dim", 32},
                                         {"vocab_size", kAdditionVocabulary},
                                         {"max_position_embeddings", 64},
                                         {"rms_norm_eps", 1e-5},
                                         {"rope_theta", 10000.0},
                                         {"hidden_act", "silu"},
                                         {"attention_bias", false},
                                         {"mlp_bias", false},
                                         {"tie_word_embeddings", false},
                                         {"eos_token_id", 1},
                                         {"pad_token_id", 0},
                                         {"torch_dtype", "float32"}};
  return config.dump(2) + "\n";
}

}  // namespace rollcall::cli
