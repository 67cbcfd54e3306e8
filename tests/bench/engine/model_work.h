#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/model/decoder.h"

namespace rollcall::bench {

// A prompt and the exact lengths of its completions, as ../shared/bench/make_work.py writes them.
struct WorkRow {
  std::vector<int64_t> prompt_ids;
  std::vector<int64_t> completion_lengths;
};

// Ends the process with a message where the file is not that.
std::vector<WorkRow> ReadWork(const std::string& path);

// The model of a folder in bfloat16, with `threads` compute threads from now on.
model::Decoder LoadDecoder(const std::string& path, int threads);

struct DecodeTimes {
  double prefill_seconds, decode_seconds;
};

// The decoder alone, without scheduler and sampling: sequences that each get a prompt of their own,
// then decode together, the likeliest token next. As llama_cpp_decode.py does.
class DecodeBench {
 public:
  DecodeBench(const std::string& model, int threads);
  DecodeTimes Run(int64_t batch, int64_t prompt_tokens, int64_t new_tokens);
  // Bytes of the matrices that every token multiplies, the head among them, the embedding not.
  int64_t matrix_bytes() const { return matrix_bytes_; }

 private:
  model::Decoder decoder_;
  int64_t matrix_bytes_ = 0;
};

struct LearnerTimes {
  int64_t tokens;
  double forward_seconds, backward_seconds;
  int64_t weight_and_gradient_bytes;
};

// Forward and backward over all samples of the work, `micro_batch` sequences packed end to end at a
// time, log-probs of every completion token and a loss on them; gradients add up.
LearnerTimes RunLearner(const std::string& model, const std::vector<WorkRow>& work,
                        int64_t micro_batch, int threads, bool checkpoint_layers);

struct HeadTimes {
  double seconds;
  int64_t working_bytes;  // most that was allocated at once beyond inputs and gradients
};

// Loss head, forward and backward, on a random hidden state [rows, 896].
HeadTimes RunHead(int64_t vocab, int64_t rows, int threads);

}  // namespace rollcall::bench
