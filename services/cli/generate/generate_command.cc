#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/shutdown.h"
#include "common/base/status.h"
#include "common/rpc/status_conversion.h"
#include "common/text/tokenizer.h"
#include "rollcall/v1/generator.grpc.pb.h"
#include "services/cli/commands/commands.h"
#include "services/cli/commands/reporting.h"
#include "services/cli/commands/text_input.h"
#include "services/cli/local/local_service.h"

namespace rollcall::cli {
namespace {

struct GenerateFlags {
  std::string model;
  std::string prompt;
  std::string system;
  std::string connect;
  std::vector<std::string> sets;
  std::vector<std::string> stop;
  bool chat = false;
  bool greedy = false;
  bool json = false;
  uint32_t samples = 1;
  uint32_t max_tokens = 256;
  uint32_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
  float temperature = 1;
  uint64_t seed = 0;
};

absl::StatusOr<std::vector<uint32_t>> PromptTokens(const text::Tokenizer& tokenizer,
                                                   const GenerateFlags& flags) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::string prompt,
                            ArgumentOrStandardInput(flags.prompt, "generate", "a prompt"));
  if (!flags.chat) return tokenizer.Encode(prompt, /*add_special_tokens=*/true);
  nlohmann::json messages = nlohmann::json::array();
  if (!flags.system.empty()) messages.push_back({{"role", "system"}, {"content", flags.system}});
  messages.push_back({{"role", "user"}, {"content", prompt}});
  const std::string json = messages.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  ROLLCALL_ASSIGN_OR_RETURN(const std::string text,
                            tokenizer.ApplyChatTemplate(json, {.add_generation_prompt = true}));
  // The template writes BOS itself where the model wants one.
  return tokenizer.Encode(text, /*add_special_tokens=*/false);
}

v1::GenerateRequest MakeRequest(const std::vector<uint32_t>& tokens, const GenerateFlags& flags) {
  v1::GenerateRequest request;
  request.mutable_key()->set_run_seed(flags.seed);
  request.mutable_key()->set_purpose(v1::RANDOM_PURPOSE_INTERACTIVE);
  request.mutable_prompt_token_ids()->Add(tokens.begin(), tokens.end());
  request.set_num_samples(flags.samples);
  v1::SamplingParams& sampling = *request.mutable_sampling();
  sampling.set_temperature(flags.greedy ? 0 : flags.temperature);
  sampling.set_top_k(flags.top_k);
  sampling.set_top_p(flags.top_p);
  sampling.set_min_p(flags.min_p);
  sampling.set_max_tokens(flags.max_tokens);
  for (const std::string& stop : flags.stop) request.mutable_stop()->add_strings(stop);
  request.set_return_text(true);
  return request;
}

// Prints one sample as it comes; several one after the other, whole, as they end.
class Printer {
 public:
  explicit Printer(const GenerateFlags& flags) : flags_(flags) {}

  void Print(const v1::GenerateResponse& response) {
    for (const v1::SampleDelta& delta : response.deltas()) {
      Sample& sample = samples_[delta.index()];
      sample.text += delta.text();
      sample.token_ids.insert(sample.token_ids.end(), delta.token_ids().begin(),
                              delta.token_ids().end());
      for (float logprob : delta.logprobs()) sample.logprob += logprob;
      if (streaming()) std::fputs(delta.text().c_str(), stdout);
    }
    for (const v1::SampleEnd& end : response.ends()) Finish(end);
    std::fflush(stdout);
  }

 private:
  struct Sample {
    std::string text;
    std::vector<uint32_t> token_ids;
    double logprob = 0;
  };

  bool streaming() const { return flags_.samples == 1 && !flags_.json; }

  void Finish(const v1::SampleEnd& end) {
    const Sample& sample = samples_[end.index()];
    if (flags_.json) {
      const nlohmann::ordered_json line = {
          {"index", end.index()},
          {"text", sample.text},
          {"token_ids", sample.token_ids},
          {"logprob", sample.logprob},
          {"finish_reason", v1::FinishReason_Name(end.finish_reason())}};
      std::printf("%s\n",
                  line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    } else if (streaming()) {
      std::printf("\n");
    } else {
      std::printf("--- %u\n%s\n", end.index(), sample.text.c_str());
    }
  }

  const GenerateFlags& flags_;
  std::map<uint32_t, Sample> samples_;
};

absl::Status Stream(const std::shared_ptr<grpc::Channel>& channel,
                    const v1::GenerateRequest& request, const GenerateFlags& flags,
                    Shutdown& shutdown) {
  const auto stub = v1::Generator::NewStub(channel);
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, request);
  Printer printer(flags);
  for (v1::GenerateResponse response; reader->Read(&response);) {
    printer.Print(response);
    if (shutdown.requested()) context.TryCancel();
  }
  const grpc::Status status = reader->Finish();
  if (shutdown.requested()) return absl::CancelledError("interrupted");
  return rpc::FromGrpc(status);
}

absl::Status Generate(const GenerateFlags& flags) {
  Shutdown shutdown;
  ROLLCALL_ASSIGN_OR_RETURN(const std::shared_ptr<const text::Tokenizer> tokenizer,
                            text::Tokenizer::Load(flags.model));
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<uint32_t> tokens, PromptTokens(*tokenizer, flags));
  const v1::GenerateRequest request = MakeRequest(tokens, flags);
  std::vector<std::string> sets = {absl::StrCat("model.path=", flags.model)};
  sets.insert(sets.end(), flags.sets.begin(), flags.sets.end());
  std::unique_ptr<LocalService> generator;
  ROLLCALL_ASSIGN_OR_RETURN(
      const std::shared_ptr<grpc::Channel> channel,
      ConnectOrStart(flags.connect, LocalService::Kind::kGenerator, sets, shutdown, generator));
  return Stream(channel, request, flags, shutdown);
}

}  // namespace

void AddGenerateCommand(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command = app.add_subcommand("generate", "Sample completions of a prompt, streaming");
  command
      ->add_option("model", flags->model,
                   "Hugging Face folder; with --connect its tokenizer is used")
      ->required();
  command->add_option("prompt", flags->prompt, "The prompt; standard input if absent");
  command->add_option("--connect", flags->connect,
                      "Use a running generator (host:port or unix:/path), start none");
  command->add_flag("--chat", flags->chat,
                    "The prompt is a user's message: apply the model's chat template");
  command->add_option("--system", flags->system, "With --chat: the system message");
  command->add_option("-n,--samples", flags->samples, "Completions")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--max-tokens", flags->max_tokens, "Most new tokens")->capture_default_str();
  command->add_option("--temperature", flags->temperature, "Softmax temperature")
      ->capture_default_str();
  command->add_flag("--greedy", flags->greedy, "Always the likeliest token");
  command->add_option("--top-k", flags->top_k, "Keep the k likeliest tokens; 0: all")
      ->capture_default_str();
  command->add_option("--top-p", flags->top_p, "Keep the smallest set with this probability")
      ->capture_default_str();
  command
      ->add_option("--min-p", flags->min_p,
                   "Keep tokens at least this likely, relative to the likeliest")
      ->capture_default_str();
  command->add_option("--stop", flags->stop, "Text that ends a completion; repeatable")
      ->allow_extra_args(false);
  command->add_option("--seed", flags->seed, "Same seed, same tokens")->capture_default_str();
  command
      ->add_option("--set", flags->sets,
                   "Configuration of the generator, as in generator.threads=1; repeatable")
      ->allow_extra_args(false);
  command->add_flag("--json", flags->json, "One JSON object a completion");
  command->callback([flags, &exit_code] { exit_code = Report(Generate(*flags)); });
}

}  // namespace rollcall::cli
