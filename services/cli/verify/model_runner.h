#pragma once

#include <ATen/core/TensorBody.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/decoder.h"

namespace rollcall::verify {

// The two ways through the one model: the learner's packed sequences, and the generator's steps
// over a paged cache.
enum class ForwardPath { kPacked, kCached };
inline constexpr ForwardPath kForwardPaths[] = {ForwardPath::kPacked, ForwardPath::kCached};
const char* NameOf(ForwardPath path);

// A model folder, loaded and driven along either path. Token ids are [tokens], int64, on the CPU.
// Not thread-safe; may throw LibTorch's exceptions (the caller's TorchCall ends them).
class ModelRunner {
 public:
  // UNIMPLEMENTED: a model that this build does not offer.
  static absl::StatusOr<ModelRunner> Open(const std::string& folder, at::ScalarType dtype,
                                          const c10::Device& device);

  model::Decoder& decoder() { return decoder_; }

  // Hidden states of each sequence: [tokens, hidden]. kPacked: all sequences in one forward,
  // differentiable if the decoder's parameters require gradients. kCached: all sequences advance
  // together, first half of each as one chunk, then a token a step. A model whose rope depends on
  // the context runs them one by one, each in a context of its length, as the reference does.
  absl::StatusOr<std::vector<at::Tensor>> Hidden(ForwardPath path,
                                                 const std::vector<at::Tensor>& sequences);

  // As many likeliest tokens as each continuation has after each prompt, [count] each, to be
  // compared with `continuations`. kCached decodes them. kPacked takes the likeliest token at every
  // place of prompt and continuation in one forward, which gives the continuation itself exactly if
  // greedy decoding does. A rope that depends on the context: both from the start for each token.
  absl::StatusOr<std::vector<at::Tensor>> Greedy(ForwardPath path,
                                                 const std::vector<at::Tensor>& prompts,
                                                 const std::vector<at::Tensor>& continuations);

  // What a reward or value model says at each hidden row: [tokens], differentiable as Hidden is.
  at::Tensor Values(const at::Tensor& hidden) { return decoder_.Values(hidden); }

  // Next-token scores of one sequence's hidden rows.
  //   logprobs: [tokens - 1], of sequence[i + 1] under row i; entropy: [tokens], of every row.
  struct Scores {
    at::Tensor logprobs;
    at::Tensor entropy;
  };
  absl::StatusOr<Scores> Score(const at::Tensor& hidden, const at::Tensor& sequence,
                               double temperature);

 private:
  explicit ModelRunner(model::Decoder decoder) : decoder_(std::move(decoder)) {}

  absl::StatusOr<std::vector<at::Tensor>> PackedHidden(const std::vector<at::Tensor>& sequences);
  absl::StatusOr<std::vector<at::Tensor>> HiddenInOneContext(
      ForwardPath path, const std::vector<at::Tensor>& sequences);
  absl::StatusOr<at::Tensor> GreedyFromTheStart(ForwardPath path, const at::Tensor& prompt,
                                                const at::Tensor& continuation);

  model::Decoder decoder_;
};

}  // namespace rollcall::verify
