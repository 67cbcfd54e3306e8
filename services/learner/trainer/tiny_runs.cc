#include "services/learner/trainer/tiny_runs.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <algorithm>

#include "common/base/philox.h"
#include "common/model/attention_context.h"
#include "common/model/scoring.h"

namespace rollcall::learner::testing {

std::vector<float> LogprobsOf(model::Decoder& decoder, const std::vector<uint32_t>& tokens,
                              float temperature) {
  const at::NoGradGuard no_grad;
  const std::vector<int64_t> ids(tokens.begin(), tokens.end());
  auto attention = model::PackedAttention::Create({0, static_cast<int64_t>(ids.size())}).value();
  const at::Tensor hidden = decoder.Forward(at::tensor(ids), attention.Positions(), attention);
  const at::Tensor targets = at::tensor(std::vector<int64_t>(ids.begin() + 1, ids.end()));
  const auto scores = model::ScoreTokens(decoder, hidden.slice(0, 0, hidden.size(0) - 1), targets,
                                         temperature, model::EntropyMode::kNone)
                          .value();
  std::vector<float> logprobs = {0.0f};
  const float* data = scores.logprob.const_data_ptr<float>();
  logprobs.insert(logprobs.end(), data, data + scores.logprob.numel());
  return logprobs;
}

TrainBatch RolloutBatch(model::Decoder& decoder, uint64_t seed, size_t groups, double drift) {
  PhiloxStream random(seed, 7);
  const auto noisy = [&](const std::vector<float>& logprobs, double scale) {
    std::vector<float> result;
    for (const float logprob : logprobs) {
      result.push_back(std::min(0.0f, logprob + static_cast<float>(scale * random.Normal())));
    }
    return result;
  };
  TrainBatch batch;
  for (uint64_t group = 0; group < groups; ++group) {
    batch.group_ids.push_back(group + 10);
    for (uint32_t sample = 0; sample < 4; ++sample) {
      TrainSequence sequence;
      sequence.group_id = group + 10;
      sequence.sample_index = sample;
      const size_t prompt = 2 + group % 3, completion = 1 + random.Below(9);
      for (size_t i = 0; i < prompt + completion; ++i) {
        sequence.token_ids.push_back(static_cast<uint32_t>(random.Below(16)));
        sequence.loss_mask.push_back(i >= prompt ? 1 : 0);
      }
      const std::vector<float> own = LogprobsOf(decoder, sequence.token_ids);
      sequence.behavior_logprobs = drift == 0 ? own : noisy(own, drift);
      sequence.reference_logprobs = noisy(own, 0.1);
      sequence.reward = random.Uniform();
      sequence.on_policy = drift == 0;
      batch.sequences.push_back(std::move(sequence));
    }
  }
  return batch;
}

std::vector<at::Tensor> CopyParameters(const Trainer& trainer) {
  std::vector<at::Tensor> copies;
  for (const auto& parameter : trainer.decoder().parameters()) {
    copies.push_back(parameter.tensor.detach().clone());
  }
  return copies;
}

std::vector<at::Tensor> FirstMoments(const Trainer& trainer) {
  std::vector<at::Tensor> moments;
  for (const auto& [name, value] : trainer.optimizer().State()) {
    if (name.rfind("exp_avg.", 0) == 0) moments.push_back(value);
  }
  return moments;
}

void ExpectSameBits(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(model::testing::SameBits(a[i], b[i])) << "parameter " << i;
  }
}

}  // namespace rollcall::learner::testing
