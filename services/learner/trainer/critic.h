#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model/decoder.h"
#include "rollcall/v1/config.pb.h"
#include "services/learner/batching/batch.h"
#include "services/learner/batching/packed_batch.h"
#include "services/learner/trainer/model_update.h"
#include "services/learner/trainer/process_group.h"
#include "services/learner/trainer/sharded_optimizer.h"

namespace rollcall::learner {

// A value model of `config` whose body has the weights of `body`, a language model, and whose head is
// 0: every value is 0 until it is trained. INVALID_ARGUMENT: the two differ in more than the head.
absl::StatusOr<model::Decoder> CriticFromBody(const model::Decoder& body,
                                              const model::ModelConfig& config);

// The learned baseline of PPO: a value model with parameters, optimizer and learning rate of its
// own. The value of a token in the loss is the model's output one row before it: what is expected
// of the text up to there. Shared by the ranks of a process group, as the policy is. One thread owns
// a critic; LibTorch's exceptions pass through.
class Critic {
 public:
  // Columns as in a batch: for each sequence one number per token in the loss.
  using Columns = std::vector<std::vector<float>>;

  // `decoder` is a value or reward model; `group` must outlive the critic.
  Critic(model::Decoder decoder, const v1::CriticSection& options, ProcessGroup* group);

  // Values of the batch's scored sequences under the parameters as they are; every rank computes its
  // share and has all. Collective.
  absl::StatusOr<Columns> Values(const TrainBatch& batch, size_t micro_batch_tokens);

  // Adds the gradient of coefficient * sum(weights * clipped value loss) over a micro-batch.
  // weights: one per token in the loss (TokenWeights).
  absl::Status Accumulate(const PackedBatch& packed, const Columns& old_values,
                          const Columns& returns, const std::vector<float>& weights);
  // One optimizer step of training step `step` of `total`. Collective.
  absl::StatusOr<ModelUpdate> Update(uint64_t step, uint64_t total);
  void ZeroGrad();

  // Of the updates since the last call: train/value_loss (mean), train/value_clip_fraction,
  // train/critic_grad_norm, train/critic_lr, train/critic_updates.
  void Report(std::map<std::string, double>& metrics);

  const model::Decoder& decoder() const { return decoder_; }
  const ShardedOptimizer& optimizer() const { return optimizer_; }

  // Parameters and optimizer as two safetensors files, and back, bit for bit. Save is collective:
  // rank 0 writes, the others pass no names. Load is of one rank, and changes nothing unless both
  // fit.
  absl::Status Save(const std::string& model_file, const std::string& optimizer_file) const;
  absl::Status Load(const std::string& model_file, const std::string& optimizer_file);
  // Makes every rank's critic that of rank 0; with `optimizer_file`, which rank 0 has loaded, the
  // optimizer too ("" at the others). Collective.
  absl::Status Share(bool with_optimizer, const std::string& optimizer_file);

 private:
  absl::StatusOr<at::Tensor> Forward(const PackedBatch& packed);

  const v1::CriticSection options_;
  model::Decoder decoder_;
  ShardedOptimizer optimizer_;

  // Of this rank, of the update being accumulated.
  double loss_ = 0;
  uint64_t own_tokens_ = 0, own_clipped_ = 0;
  double losses_ = 0, grad_norms_ = 0, lr_ = 0;
  uint64_t updates_ = 0, taken_ = 0, tokens_ = 0, clipped_ = 0;
};

}  // namespace rollcall::learner
