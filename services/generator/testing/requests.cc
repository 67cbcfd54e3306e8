#include "services/generator/testing/requests.h"

#include <ATen/core/TensorBody.h>

#include <cstdlib>
#include <cstring>

#include "common/base/philox.h"
#include "common/model/identity.h"
#include "common/model/peft_config.h"
#include "common/tensor/bridge.h"

namespace rollcall::generator::testing {

v1::GenerateRequest Request(uint64_t group_id, uint32_t prompt_tokens, uint32_t samples,
                            uint32_t max_tokens) {
  v1::GenerateRequest request;
  request.mutable_key()->set_run_seed(5);
  request.mutable_key()->set_purpose(v1::RANDOM_PURPOSE_ROLLOUT);
  request.mutable_key()->set_group_id(group_id);
  PhiloxStream random(group_id, 77);
  for (uint32_t i = 0; i < prompt_tokens; ++i) {
    request.add_prompt_token_ids(static_cast<uint32_t>(random.Below(77)));
  }
  request.set_num_samples(samples);
  request.mutable_sampling()->set_max_tokens(max_tokens);
  request.mutable_stop()->set_ignore_eos(true);
  return request;
}

::testing::AssertionResult SameSamples(const Outcome& a, const Outcome& b) {
  if (!a.status.ok() || !b.status.ok())
    return ::testing::AssertionFailure() << a.status << b.status;
  if (a.samples.size() != b.samples.size()) return ::testing::AssertionFailure() << "sample counts";
  for (const auto& [index, sample] : a.samples) {
    const Outcome::Sample& other = b.samples.at(index);
    if (sample.tokens != other.tokens)
      return ::testing::AssertionFailure() << "tokens of " << index;
    if (std::memcmp(sample.logprobs.data(), other.logprobs.data(), sample.logprobs.size() * 4) !=
        0) {
      return ::testing::AssertionFailure() << "log-probs of " << index;
    }
  }
  return ::testing::AssertionSuccess();
}

::testing::AssertionResult CancelsWithinAStep(const std::string& metrics_text, int least) {
  const auto value_of = [&](const std::string& series) {
    const size_t at = metrics_text.find("\nrollcall_generator_cancellation_steps" + series + " ");
    if (at == std::string::npos) return -1.0;
    return std::strtod(metrics_text.c_str() + metrics_text.find(' ', at), nullptr);
  };
  const double all = value_of("_count"), soon = value_of("_bucket{le=\"1\"}");
  if (all >= least && all == soon) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << soon << " of " << all << ", expected at least " << least;
}

Published::Published(const model::Decoder& decoder, const std::string& folder, uint64_t lineage,
                     uint64_t step) {
  const model::LoraConfig* lora = decoder.lora();
  manifest = lora == nullptr ? *model::ManifestOf(decoder) : *model::AdapterManifestOf(decoder);
  if (lora != nullptr) {
    adapter.emplace().set_adapter_config(model::CanonicalAdapterConfig(*lora));
    adapter->set_base_manifest_hash(*model::ManifestHash(*model::ManifestOf(decoder)));
  }
  manifest.set_tokenizer_hash(*model::TokenizerHash(folder));
  version.set_run_id("run");
  version.set_lineage(lineage);
  version.set_step(step);
  version.set_manifest_hash(*model::PolicyManifestHash(decoder));
  for (const auto& parameter : decoder.trainable_parameters()) {
    tensors.emplace_back(tensor::BytesOf(*tensor::HostContiguous(parameter.tensor)));
  }
}

}  // namespace rollcall::generator::testing
