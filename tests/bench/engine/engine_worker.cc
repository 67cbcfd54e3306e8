// Rollcall's side of `./rollcall bench engine`: each call does one piece of work and prints it as
// one JSON line, as the peers' scripts do.
//
//   engine_worker rooflines
//   engine_worker decode MODEL --batch 1 16 64 [--prompt-tokens 64] [--new-tokens 64]
//   engine_worker rollouts MODEL --work work.jsonl
//   engine_worker group MODEL [--samples 16] [--prompt-tokens 1024] [--new-tokens 64]
//   engine_worker update MODEL [--on-weight-update recompute] [--seconds 10]
//   engine_worker learner MODEL --work work.jsonl [--micro-batch 8] [--checkpoint-layers]
//   engine_worker head [--vocab 151936] [--rows 512]
// All take --threads (2).

#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/synchronization/notification.h"
#include "services/generator/testing/generator_client.h"
#include "services/generator/testing/requests.h"
#include "tests/bench/engine/endless_load.h"
#include "tests/bench/engine/local_generator.h"
#include "tests/bench/engine/model_work.h"
#include "tests/bench/engine/rooflines.h"
#include "tests/bench/engine/stopwatch.h"

namespace rollcall::bench {
namespace {

using Json = nlohmann::json;

int64_t PeakRssMib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss / 1024;
}

// A folder that goes away with this object.
class ScratchDirectory {
 public:
  ScratchDirectory() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "engine_worker.XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) std::exit(1);
    path_ = pattern;
  }
  ~ScratchDirectory() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

v1::GenerateRequest Request(uint64_t group, const std::vector<int64_t>& prompt, int64_t samples,
                            int64_t max_tokens) {
  v1::GenerateRequest request;
  request.mutable_key()->set_purpose(v1::RANDOM_PURPOSE_INTERACTIVE);
  request.mutable_key()->set_group_id(group);
  for (const int64_t id : prompt) request.add_prompt_token_ids(static_cast<uint32_t>(id));
  request.set_num_samples(static_cast<uint32_t>(samples));
  request.mutable_sampling()->set_max_tokens(static_cast<uint32_t>(max_tokens));
  request.mutable_stop()->set_ignore_eos(true);
  return request;
}

struct Arguments {
  std::string model, work, on_weight_update = "recompute";
  std::vector<int64_t> batches = {1, 16, 64};
  int64_t prompt_tokens = 64, new_tokens = 64, samples = 16, micro_batch = 8, vocab = 151936,
          rows = 512, seconds = 10;
  int threads = 2;
  bool checkpoint_layers = false;
};

Json Rooflines(const Arguments& args) {
  const struct Rooflines roofs = MeasureRooflines(args.threads);
  return {{"stream_read_gb_per_s", roofs.stream_read_gb_per_s},
          {"fma_gflop_per_s", roofs.fma_gflop_per_s},
          {"bf16_dot_gflop_per_s", roofs.bf16_dot_gflop_per_s}};
}

Json Decode(const Arguments& args) {
  DecodeBench bench(args.model, args.threads);
  Json results = Json::array();
  for (const int64_t batch : args.batches) {
    const DecodeTimes times = bench.Run(batch, args.prompt_tokens, args.new_tokens);
    results.push_back(
        {{"batch", batch},
         {"prefill_tokens_per_second",
          static_cast<double>(batch * args.prompt_tokens) / times.prefill_seconds},
         {"decode_tokens_per_second",
          static_cast<double>(batch * args.new_tokens) / times.decode_seconds},
         {"weight_gb_per_s", 1e-9 * static_cast<double>(bench.matrix_bytes() * args.new_tokens) /
                                 times.decode_seconds},
         {"gflop_per_s", 1e-9 *
                             static_cast<double>(bench.matrix_bytes() * batch * args.new_tokens) /
                             times.decode_seconds}});
  }
  // The limits of the same moment.
  return {{"decode", results}, {"rooflines", Rooflines(args)}};
}

// One request for each sample, as its own length demands; a prompt is computed once all the same.
Json Rollouts(const Arguments& args) {
  std::vector<v1::GenerateRequest> requests;
  for (const WorkRow& row : ReadWork(args.work)) {
    for (const int64_t length : row.completion_lengths) {
      requests.push_back(Request(requests.size(), row.prompt_ids, 1, length));
    }
  }
  const ScratchDirectory scratch;
  LocalGenerator generator(scratch.path(), args.model, args.threads);
  generator.GenerateAll({Request(1u << 30, {1, 5, 9}, 2, 4)});
  const Stopwatch watch;
  const int64_t tokens = generator.GenerateAll(requests);
  const double seconds = watch.Seconds();
  return {{"new_tokens", tokens},
          {"seconds", seconds},
          {"tokens_per_second", static_cast<double>(tokens) / seconds},
          {"peak_rss_mib", PeakRssMib()}};
}

// A whole group against its parts: the prefill of one prompt alone, and the same decode on a prompt
// that is in the cache already.
Json Group(const Arguments& args) {
  const ScratchDirectory scratch;
  LocalGenerator generator(scratch.path(), args.model, args.threads);
  const auto prompt = [&](int64_t seed) {
    std::vector<int64_t> ids(args.prompt_tokens);
    for (size_t i = 0; i < ids.size(); ++i) {
      ids[i] = 3 + (seed * 131 + static_cast<int64_t>(i) * 17) % 480;
    }
    return ids;
  };
  const auto time = [&](uint64_t group, int64_t seed, int64_t samples, int64_t tokens) {
    const Stopwatch watch;
    generator.GenerateAll({Request(group, prompt(seed), samples, tokens)});
    return watch.Seconds();
  };
  time(0, 1, 2, 4);
  const double prefill = time(1, 2, 1, 1);
  const double decode = time(2, 2, args.samples, args.new_tokens);
  const double whole = time(3, 3, args.samples, args.new_tokens);
  return {{"samples", args.samples},
          {"prompt_tokens", args.prompt_tokens},
          {"new_tokens", args.new_tokens},
          {"prefill_seconds", prefill},
          {"decode_seconds", decode},
          {"group_seconds", whole},
          {"ratio", whole / (prefill + decode)}};
}

// Tokens a second of 64 streams that never end: in a window without an update, then in one in which
// new weights are pushed a fifth of it after its begin.
Json Update(const Arguments& args) {
  const ScratchDirectory scratch;
  const model::Decoder decoder = LoadDecoder(args.model, args.threads);
  const generator::testing::Published published(decoder, args.model, 1, 1);
  LocalGenerator generator(scratch.path(), args.model, args.threads,
                           {"generator.on_weight_update=" + args.on_weight_update});
  generator::testing::GeneratorClient client(generator.address());
  EndlessLoad load(generator.stub(), 64);
  const auto wait = [](double seconds) {
    absl::Notification never;
    never.WaitForNotificationWithTimeout(absl::Seconds(seconds));
  };
  const auto window_seconds = static_cast<double>(args.seconds);
  const auto rate = [&](bool update) {
    const int64_t before = load.tokens();
    const Stopwatch watch;
    double push_seconds = 0;
    if (update) {
      wait(window_seconds / 5);
      const Stopwatch push;
      const absl::Status status = client.PushWeights(published.version, published.manifest,
                                                     published.tensors, size_t{4} << 20);
      if (!status.ok()) {
        std::cerr << "engine_worker: " << status << "\n";
        std::exit(1);
      }
      push_seconds = push.Seconds();
    }
    wait(window_seconds - watch.Seconds());
    const auto tokens = static_cast<double>(load.tokens() - before);
    return std::pair(tokens / watch.Seconds(), push_seconds);
  };
  wait(window_seconds / 5);  // until the batch is full and ragged
  const double plain = rate(false).first;
  const auto [updated, push_seconds] = rate(true);
  return {{"on_weight_update", args.on_weight_update},
          {"seconds", args.seconds},
          {"tokens_per_second", plain},
          {"tokens_per_second_with_update", updated},
          {"push_seconds", push_seconds},
          {"ratio", updated / plain}};
}

Json Learner(const Arguments& args) {
  const int64_t before = PeakRssMib();
  const LearnerTimes times = RunLearner(args.model, ReadWork(args.work), args.micro_batch,
                                        args.threads, args.checkpoint_layers);
  return {{"tokens", times.tokens},
          {"forward_seconds", times.forward_seconds},
          {"backward_seconds", times.backward_seconds},
          {"tokens_per_second",
           static_cast<double>(times.tokens) / (times.forward_seconds + times.backward_seconds)},
          {"peak_rss_mib", PeakRssMib()},
          {"rss_before_mib", before},
          {"activation_mib", PeakRssMib() - before - (times.weight_and_gradient_bytes >> 20)}};
}

Json Head(const Arguments& args) {
  const HeadTimes times = RunHead(args.vocab, args.rows, args.threads);
  return {{"vocab", args.vocab},
          {"rows", args.rows},
          {"seconds", times.seconds},
          {"working_mib", static_cast<double>(times.working_bytes) / (1 << 20)}};
}

int Main(int argc, char** argv) {
  CLI::App app("One piece of work of ./rollcall bench engine");
  Arguments args;
  using Command = Json (*)(const Arguments&);
  const std::map<std::string, Command> commands = {
      {"rooflines", Rooflines}, {"decode", Decode},   {"rollouts", Rollouts}, {"group", Group},
      {"update", Update},       {"learner", Learner}, {"head", Head}};
  std::vector<std::string> names;
  for (const auto& [name, run] : commands) names.push_back(name);
  std::string command;
  app.add_option("command", command)->required()->check(CLI::IsMember(names));
  app.add_option("model", args.model);
  app.add_option("--work", args.work);
  app.add_option("--on-weight-update", args.on_weight_update);
  app.add_option("--seconds", args.seconds)->check(CLI::PositiveNumber);
  app.add_option("--batch", args.batches);
  app.add_option("--prompt-tokens", args.prompt_tokens)->check(CLI::PositiveNumber);
  app.add_option("--new-tokens", args.new_tokens)->check(CLI::PositiveNumber);
  app.add_option("--samples", args.samples)->check(CLI::PositiveNumber);
  app.add_option("--micro-batch", args.micro_batch)->check(CLI::PositiveNumber);
  app.add_option("--vocab", args.vocab)->check(CLI::PositiveNumber);
  app.add_option("--rows", args.rows)->check(CLI::PositiveNumber);
  app.add_option("--threads", args.threads)->check(CLI::PositiveNumber);
  app.add_flag("--checkpoint-layers", args.checkpoint_layers);
  CLI11_PARSE(app, argc, argv);
  Json result = commands.at(command)(args);
  result["what"] = "rollcall_" + command;
  std::cout << result.dump() << std::endl;
  return 0;
}

}  // namespace
}  // namespace rollcall::bench

int main(int argc, char** argv) { return rollcall::bench::Main(argc, argv); }
