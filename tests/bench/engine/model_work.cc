#include "tests/bench/engine/model_work.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "common/base/philox.h"
#include "common/checkpoint/hf_folder.h"
#include "common/checkpoint/parameters.h"
#include "common/model/attention_context.h"
#include "common/model/kv_cache.h"
#include "common/model/scoring.h"
#include "tests/bench/engine/stopwatch.h"

namespace rollcall::bench {
namespace {

constexpr int64_t kBlockTokens = 16;

[[noreturn]] void Fail(const std::string& message) {
  std::cerr << "engine_worker: " << message << "\n";
  std::exit(1);
}

template <typename T>
T Require(absl::StatusOr<T> value) {
  if (!value.ok()) Fail(value.status().ToString());
  return *std::move(value);
}

int64_t PeakRssBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

// Sequences of one micro-batch laid end to end, and the rows that predict a completion token.
struct Packed {
  std::vector<int64_t> ids, cu_seqlens = {0}, rows, targets;
};

using Sequence = std::pair<std::vector<int64_t>, int64_t>;  // tokens, length of the prompt

Packed Pack(const std::vector<Sequence>& sequences, size_t begin, size_t end) {
  Packed packed;
  for (size_t i = begin; i < end; ++i) {
    const auto& [tokens, prompt] = sequences[i];
    const auto first = static_cast<int64_t>(packed.ids.size());
    packed.ids.insert(packed.ids.end(), tokens.begin(), tokens.end());
    packed.cu_seqlens.push_back(static_cast<int64_t>(packed.ids.size()));
    for (size_t t = prompt; t < tokens.size(); ++t) {
      packed.rows.push_back(first + static_cast<int64_t>(t) - 1);
      packed.targets.push_back(tokens[t]);
    }
  }
  return packed;
}

std::vector<Sequence> SequencesOf(const std::vector<WorkRow>& work, int64_t vocab) {
  std::vector<Sequence> sequences;
  PhiloxStream random(5, 5);
  for (const WorkRow& row : work) {
    for (const int64_t length : row.completion_lengths) {
      std::vector<int64_t> tokens = row.prompt_ids;
      for (int64_t i = 0; i < length; ++i) {
        tokens.push_back(3 + static_cast<int64_t>(random.Below(std::min<int64_t>(vocab, 500) - 3)));
      }
      sequences.emplace_back(std::move(tokens), static_cast<int64_t>(row.prompt_ids.size()));
    }
  }
  return sequences;
}

}  // namespace

model::Decoder LoadDecoder(const std::string& path, int threads) {
  at::set_num_threads(threads);
  const checkpoint::HfFolder folder = Require(checkpoint::HfFolder::Open(path));
  const model::ModelConfig config =
      Require(model::ModelConfig::FromJson(folder.config_json(), path + "/config.json"));
  model::Decoder decoder =
      Require(model::Decoder::Create(config, at::kBFloat16, at::Device(at::kCPU)));
  if (const absl::Status status = checkpoint::LoadParameters(folder, decoder.parameters());
      !status.ok()) {
    Fail(status.ToString());
  }
  decoder.InvalidatePacked();
  return decoder;
}

std::vector<WorkRow> ReadWork(const std::string& path) {
  std::ifstream file(path);
  std::vector<WorkRow> rows;
  for (std::string line; std::getline(file, line);) {
    const auto row = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (row.is_discarded() || !row.contains("prompt_ids") || !row.contains("completion_lengths")) {
      Fail(path + ": expected the lines of make_work.py");
    }
    rows.push_back({row["prompt_ids"], row["completion_lengths"]});
  }
  if (rows.empty()) Fail(path + ": no work");
  return rows;
}

DecodeBench::DecodeBench(const std::string& model, int threads)
    : decoder_(LoadDecoder(model, threads)) {
  for (const auto& [name, parameter] : decoder_.parameters()) {
    const bool embedding = name.find("embed_tokens") != std::string::npos;
    if (parameter.dim() == 2 && (!embedding || decoder_.config().tie_word_embeddings)) {
      matrix_bytes_ += parameter.numel() * 2;
    }
  }
}

DecodeTimes DecodeBench::Run(int64_t batch, int64_t prompt_tokens, int64_t new_tokens) {
  const at::NoGradGuard no_grad;
  const int64_t blocks = (prompt_tokens + new_tokens + kBlockTokens) / kBlockTokens;
  model::KvCache cache = Require(model::KvCache::Create(
      decoder_.config(), {batch * blocks, kBlockTokens}, at::kBFloat16, at::Device(at::kCPU)));
  PhiloxStream random(1, 1);
  std::vector<model::PagedSequence> sequences(batch);
  std::vector<int64_t> next(batch);
  const auto step = [&](std::vector<model::PagedSequence> parts, const std::vector<int64_t>& ids) {
    auto attention = Require(model::PagedAttention::Create(&cache, std::move(parts)));
    return decoder_.Forward(at::tensor(ids), attention.Positions(), attention);
  };
  const Stopwatch prefill;
  for (int64_t i = 0; i < batch; ++i) {
    for (int64_t b = 0; b < blocks; ++b) {
      sequences[i].block_table.push_back(static_cast<int32_t>(i * blocks + b));
    }
    std::vector<int64_t> prompt(prompt_tokens);
    for (int64_t& id : prompt) id = 3 + static_cast<int64_t>(random.Below(400));
    sequences[i].count = prompt_tokens;
    const at::Tensor hidden = step({sequences[i]}, prompt);
    next[i] = decoder_.Logits(hidden.narrow(0, prompt_tokens - 1, 1)).argmax().item<int64_t>();
    sequences[i].start = prompt_tokens;
    sequences[i].count = 1;
  }
  DecodeTimes times{prefill.Seconds(), 0};
  const Stopwatch decode;
  for (int64_t t = 0; t < new_tokens; ++t) {
    const at::Tensor chosen = decoder_.Logits(step(sequences, next)).argmax(1);
    for (int64_t i = 0; i < batch; ++i) {
      next[i] = chosen.const_data_ptr<int64_t>()[i];
      ++sequences[i].start;
    }
  }
  times.decode_seconds = decode.Seconds();
  return times;
}

LearnerTimes RunLearner(const std::string& model, const std::vector<WorkRow>& work,
                        int64_t micro_batch, int threads, bool checkpoint_layers) {
  model::Decoder decoder = LoadDecoder(model, threads);
  decoder.SetRequiresGrad(true);
  decoder.SetActivationCheckpointing(checkpoint_layers);
  const std::vector<Sequence> sequences = SequencesOf(work, decoder.config().vocab_size);
  LearnerTimes times{};
  const auto pass = [&](size_t begin, size_t end) {
    const Packed packed = Pack(sequences, begin, end);
    auto attention = Require(model::PackedAttention::Create(packed.cu_seqlens));
    const Stopwatch forward;
    const at::Tensor hidden =
        decoder.Forward(at::tensor(packed.ids), attention.Positions(), attention);
    const model::TokenScores scores =
        Require(model::ScoreTokens(decoder, at::index_select(hidden, 0, at::tensor(packed.rows)),
                                   at::tensor(packed.targets), 1.0, model::EntropyMode::kDetached));
    const at::Tensor loss = scores.logprob.sum();
    times.forward_seconds += forward.Seconds();
    const Stopwatch backward;
    loss.backward();
    times.backward_seconds += backward.Seconds();
    times.tokens += static_cast<int64_t>(packed.ids.size());
  };
  pass(0, 1);
  decoder.ZeroGrad();
  times = {};
  for (size_t i = 0; i < sequences.size(); i += static_cast<size_t>(micro_batch)) {
    pass(i, std::min(sequences.size(), i + static_cast<size_t>(micro_batch)));
  }
  for (const auto& [name, parameter] : decoder.parameters()) {
    times.weight_and_gradient_bytes +=
        static_cast<int64_t>(parameter.nbytes()) + 4 * parameter.numel();
  }
  return times;
}

HeadTimes RunHead(int64_t vocab, int64_t rows, int threads) {
  at::set_num_threads(threads);
  model::ModelConfig config;
  config.vocab_size = vocab;
  config.hidden_size = 896;
  config.intermediate_size = 64;
  config.num_layers = 1;
  config.num_heads = config.num_kv_heads = 14;
  config.head_dim = 64;
  config.tie_word_embeddings = true;
  model::Decoder decoder =
      Require(model::Decoder::Create(config, at::kBFloat16, at::Device(at::kCPU)));
  decoder.InitializeRandom(1);
  decoder.SetRequiresGrad(true);
  const auto pass = [&](int64_t count) {
    PhiloxStream random(2, 2);
    std::vector<int64_t> targets(count);
    for (int64_t& target : targets) target = static_cast<int64_t>(random.Below(vocab));
    const at::Tensor hidden =
        at::empty({count, 896}, at::TensorOptions().dtype(at::kBFloat16)).fill_(0.25);
    hidden.requires_grad_(true);
    Require(model::ScoreTokens(decoder, hidden, at::tensor(targets), 1.0,
                               model::EntropyMode::kDetached))
        .logprob.sum()
        .backward();
  };
  pass(1);  // weights are packed, the gradient is there
  const int64_t before = PeakRssBytes();
  const Stopwatch watch;
  pass(rows);
  return {watch.Seconds(), PeakRssBytes() - before};
}

}  // namespace rollcall::bench
