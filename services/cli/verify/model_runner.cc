#include "services/cli/verify/model_runner.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/checkpoint/hf_folder.h"
#include "common/checkpoint/parameters.h"
#include "common/model/attention_context.h"
#include "common/model/kv_cache.h"
#include "common/model/scoring.h"

namespace rollcall::verify {
namespace {

constexpr int64_t kBlockSize = 16;

int64_t BlocksFor(int64_t tokens) { return (tokens + kBlockSize - 1) / kBlockSize; }

// Several sequences over one cache; each has room for `capacity` tokens. Blocks are handed out
// interleaved, so that no sequence's blocks lie in order.
class CachedSession {
 public:
  static absl::StatusOr<CachedSession> Create(model::Decoder* decoder,
                                              const std::vector<int64_t>& capacities) {
    int64_t blocks = 0, longest = 0;
    for (const int64_t capacity : capacities) {
      blocks += BlocksFor(capacity);
      longest = std::max(longest, BlocksFor(capacity));
    }
    ROLLCALL_ASSIGN_OR_RETURN(
        model::KvCache cache,
        model::KvCache::Create(decoder->config(), {.num_blocks = blocks, .block_size = kBlockSize},
                               decoder->dtype(), decoder->device()));
    CachedSession session(decoder, std::move(cache), capacities.size());
    int32_t next = 0;
    for (int64_t block = 0; block < longest; ++block) {
      for (size_t i = 0; i < capacities.size(); ++i) {
        if (block < BlocksFor(capacities[i])) session.tables_[i].push_back(next++);
      }
    }
    return session;
  }

  // Feeds each sequence its new tokens (none: it sits this step out) and returns their hidden rows.
  absl::StatusOr<std::vector<at::Tensor>> Step(const std::vector<at::Tensor>& new_tokens) {
    std::vector<model::PagedSequence> parts;
    std::vector<at::Tensor> ids;
    std::vector<int64_t> counts(new_tokens.size());
    for (size_t i = 0; i < new_tokens.size(); ++i) {
      counts[i] = new_tokens[i].size(0);
      if (counts[i] == 0) continue;
      parts.push_back({.block_table = tables_[i], .start = lengths_[i], .count = counts[i]});
      ids.push_back(new_tokens[i]);
      lengths_[i] += counts[i];
    }
    ROLLCALL_ASSIGN_OR_RETURN(auto attention,
                              model::PagedAttention::Create(&cache_, std::move(parts)));
    const at::NoGradGuard no_grad;
    const at::Tensor hidden = decoder_->Forward(at::cat(ids), attention.Positions(), attention);
    return hidden.split_with_sizes(counts);
  }

 private:
  CachedSession(model::Decoder* decoder, model::KvCache cache, size_t sequences)
      : decoder_(decoder), cache_(std::move(cache)), tables_(sequences), lengths_(sequences) {}

  model::Decoder* decoder_;
  model::KvCache cache_;
  std::vector<std::vector<int32_t>> tables_;
  std::vector<int64_t> lengths_;
};

at::Tensor NoTokens() { return at::zeros({0}, at::TensorOptions().dtype(at::kLong)); }

absl::StatusOr<std::vector<at::Tensor>> CachedHidden(model::Decoder& decoder,
                                                     const std::vector<at::Tensor>& sequences) {
  std::vector<int64_t> lengths;
  std::vector<at::Tensor> chunk;
  std::vector<int64_t> done;
  for (const at::Tensor& sequence : sequences) {
    lengths.push_back(sequence.size(0));
    done.push_back((sequence.size(0) + 1) / 2);
    chunk.push_back(sequence.narrow(0, 0, done.back()));
  }
  ROLLCALL_ASSIGN_OR_RETURN(CachedSession session, CachedSession::Create(&decoder, lengths));
  std::vector<std::vector<at::Tensor>> rows(sequences.size());
  for (bool more = true; more;) {
    ROLLCALL_ASSIGN_OR_RETURN(const std::vector<at::Tensor> hidden, session.Step(chunk));
    more = false;
    for (size_t i = 0; i < sequences.size(); ++i) {
      rows[i].push_back(hidden[i]);
      const bool left = done[i] < lengths[i];
      chunk[i] = left ? sequences[i].narrow(0, done[i]++, 1) : NoTokens();
      more = more || left;
    }
  }
  std::vector<at::Tensor> whole;
  for (const std::vector<at::Tensor>& parts : rows) whole.push_back(at::cat(parts));
  return whole;
}

// [rows], int64, on the CPU: the likeliest token after each hidden row.
at::Tensor Likeliest(model::Decoder& decoder, const at::Tensor& hidden) {
  const at::NoGradGuard no_grad;
  return decoder.Logits(hidden).argmax(1).cpu();
}

absl::StatusOr<std::vector<at::Tensor>> DecodeGreedily(model::Decoder& decoder,
                                                       const std::vector<at::Tensor>& prompts,
                                                       const std::vector<int64_t>& counts) {
  std::vector<int64_t> capacities;
  for (size_t i = 0; i < prompts.size(); ++i) capacities.push_back(prompts[i].size(0) + counts[i]);
  ROLLCALL_ASSIGN_OR_RETURN(CachedSession session, CachedSession::Create(&decoder, capacities));
  std::vector<at::Tensor> texts(prompts.size(), NoTokens());
  std::vector<at::Tensor> fresh = prompts;  // what the cache has not seen
  for (int64_t step = 0; step < *std::max_element(counts.begin(), counts.end()); ++step) {
    ROLLCALL_ASSIGN_OR_RETURN(const std::vector<at::Tensor> hidden, session.Step(fresh));
    for (size_t i = 0; i < texts.size(); ++i) {
      const bool done = step >= counts[i];
      fresh[i] =
          done ? NoTokens() : Likeliest(decoder, hidden[i].narrow(0, hidden[i].size(0) - 1, 1));
      texts[i] = at::cat({texts[i], fresh[i]});
    }
  }
  return texts;
}

}  // namespace

const char* NameOf(ForwardPath path) { return path == ForwardPath::kPacked ? "packed" : "cached"; }

absl::StatusOr<ModelRunner> ModelRunner::Open(const std::string& folder, at::ScalarType dtype,
                                              const c10::Device& device) {
  ROLLCALL_ASSIGN_OR_RETURN(const checkpoint::HfFolder files, checkpoint::HfFolder::Open(folder));
  ROLLCALL_ASSIGN_OR_RETURN(
      const model::ModelConfig config,
      model::ModelConfig::FromJson(files.config_json(), absl::StrCat(folder, "/config.json")));
  ROLLCALL_ASSIGN_OR_RETURN(model::Decoder decoder, model::Decoder::Create(config, dtype, device));
  ROLLCALL_RETURN_IF_ERROR(checkpoint::LoadParameters(files, decoder.parameters()));
  return ModelRunner(std::move(decoder));
}

absl::StatusOr<std::vector<at::Tensor>> ModelRunner::PackedHidden(
    const std::vector<at::Tensor>& sequences) {
  std::vector<int64_t> cu_seqlens = {0}, lengths;
  for (const at::Tensor& sequence : sequences) {
    lengths.push_back(sequence.size(0));
    cu_seqlens.push_back(cu_seqlens.back() + lengths.back());
  }
  ROLLCALL_ASSIGN_OR_RETURN(auto attention, model::PackedAttention::Create(std::move(cu_seqlens)));
  return decoder_.Forward(at::cat(sequences), attention.Positions(), attention)
      .split_with_sizes(lengths);
}

absl::StatusOr<std::vector<at::Tensor>> ModelRunner::HiddenInOneContext(
    ForwardPath path, const std::vector<at::Tensor>& sequences) {
  return path == ForwardPath::kPacked ? PackedHidden(sequences) : CachedHidden(decoder_, sequences);
}

absl::StatusOr<std::vector<at::Tensor>> ModelRunner::Hidden(
    ForwardPath path, const std::vector<at::Tensor>& sequences) {
  if (!decoder_.config().RopeDependsOnContext()) return HiddenInOneContext(path, sequences);
  std::vector<at::Tensor> hidden;
  for (const at::Tensor& sequence : sequences) {
    decoder_.SetContext(sequence.size(0));
    ROLLCALL_ASSIGN_OR_RETURN(std::vector<at::Tensor> one, HiddenInOneContext(path, {sequence}));
    hidden.push_back(std::move(one[0]));
  }
  return hidden;
}

absl::StatusOr<at::Tensor> ModelRunner::GreedyFromTheStart(ForwardPath path,
                                                           const at::Tensor& prompt,
                                                           const at::Tensor& continuation) {
  at::Tensor generated = NoTokens();
  for (int64_t step = 0; step < continuation.size(0); ++step) {
    const at::Tensor before =
        path == ForwardPath::kPacked ? continuation.narrow(0, 0, step) : generated;
    ROLLCALL_ASSIGN_OR_RETURN(const std::vector<at::Tensor> hidden,
                              Hidden(path, {at::cat({prompt, before})}));
    const at::Tensor last = hidden[0].narrow(0, hidden[0].size(0) - 1, 1);
    generated = at::cat({generated, Likeliest(decoder_, last)});
  }
  return generated;
}

absl::StatusOr<std::vector<at::Tensor>> ModelRunner::Greedy(
    ForwardPath path, const std::vector<at::Tensor>& prompts,
    const std::vector<at::Tensor>& continuations) {
  if (decoder_.config().RopeDependsOnContext()) {
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> texts;
    for (size_t i = 0; i < prompts.size(); ++i) {
      ROLLCALL_ASSIGN_OR_RETURN(texts.emplace_back(),
                                GreedyFromTheStart(path, prompts[i], continuations[i]));
    }
    return texts;
  }
  std::vector<int64_t> counts;
  std::vector<at::Tensor> sequences;
  for (size_t i = 0; i < prompts.size(); ++i) {
    counts.push_back(continuations[i].size(0));
    sequences.push_back(at::cat({prompts[i], continuations[i]}));
  }
  if (path == ForwardPath::kCached) return DecodeGreedily(decoder_, prompts, counts);
  const at::NoGradGuard no_grad;
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<at::Tensor> hidden, PackedHidden(sequences));
  std::vector<at::Tensor> likeliest;
  for (size_t i = 0; i < prompts.size(); ++i) {
    likeliest.push_back(
        Likeliest(decoder_, hidden[i].narrow(0, prompts[i].size(0) - 1, counts[i])));
  }
  return likeliest;
}

absl::StatusOr<ModelRunner::Scores> ModelRunner::Score(const at::Tensor& hidden,
                                                       const at::Tensor& sequence,
                                                       double temperature) {
  // The last row has no next token; any target serves its entropy.
  const int64_t tokens = sequence.size(0);
  const at::Tensor targets = at::cat({sequence.narrow(0, 1, tokens - 1), sequence.narrow(0, 0, 1)});
  ROLLCALL_ASSIGN_OR_RETURN(
      const model::TokenScores scores,
      model::ScoreTokens(decoder_, hidden, targets, temperature, model::EntropyMode::kDetached));
  return Scores{scores.logprob.narrow(0, 0, tokens - 1), scores.entropy};
}

}  // namespace rollcall::verify
