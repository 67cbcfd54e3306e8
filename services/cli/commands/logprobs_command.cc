#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/shutdown.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/status_conversion.h"
#include "common/text/tokenizer.h"
#include "rollcall/v1/logprob.grpc.pb.h"
#include "services/cli/commands/commands.h"
#include "services/cli/commands/reporting.h"
#include "services/cli/commands/text_input.h"
#include "services/cli/local/local_service.h"

namespace rollcall::cli {
namespace {

// logprob.proto: what a call should be given.
constexpr absl::Duration kScoreTime = absl::Minutes(5);

struct LogProbsFlags {
  std::string model;
  std::string text;
  std::string connect;
  std::vector<std::string> sets;
  float temperature = 1;
  bool no_special = false;
  bool json = false;
};

absl::StatusOr<v1::LogProbResponse> Score(const std::shared_ptr<grpc::Channel>& channel,
                                          const std::vector<uint32_t>& ids, float temperature) {
  v1::LogProbRequest request;
  request.add_sequences()->mutable_token_ids()->Add(ids.begin(), ids.end());
  request.set_temperature(temperature);
  request.set_with_entropy(true);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kScoreTime));
  v1::LogProbResponse response;
  ROLLCALL_RETURN_IF_ERROR(
      rpc::FromGrpc(v1::LogProb::NewStub(channel)->Score(&context, request, &response)));
  const bool whole = response.sequences_size() == 1 &&
                     response.sequences(0).logprobs_size() == static_cast<int>(ids.size()) - 1 &&
                     response.sequences(0).entropies_size() == static_cast<int>(ids.size()) - 1;
  if (!whole) return absl::InternalError("the reference service answered for other tokens");
  return response;
}

void Print(const text::Tokenizer& tokenizer, const std::vector<uint32_t>& ids,
           const v1::SequenceLogProbs& scores, const LogProbsFlags& flags) {
  double sum = 0;
  std::vector<std::string> tokens;
  for (const uint32_t id : ids) tokens.push_back(tokenizer.IdToToken(id).value_or(""));
  for (const float logprob : scores.logprobs()) sum += logprob;
  const double mean = sum / scores.logprobs_size();
  if (flags.json) {
    const nlohmann::ordered_json line = {
        {"ids", ids},
        {"tokens", tokens},
        {"logprobs", std::vector<float>(scores.logprobs().begin(), scores.logprobs().end())},
        {"entropies", std::vector<float>(scores.entropies().begin(), scores.entropies().end())},
        {"sum", sum},
        {"mean", mean},
        {"perplexity", std::exp(-mean)}};
    std::printf("%s\n",
                line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    return;
  }
  std::printf("%8s  %10s  %8s  token\n", "id", "log-prob", "entropy");
  for (size_t i = 0; i < ids.size(); ++i) {
    const std::string token = absl::Utf8SafeCHexEscape(tokens[i]);
    if (i == 0) {
      std::printf("%8u  %10s  %8s  %s\n", ids[i], "-", "-", token.c_str());
      continue;
    }
    const int row = static_cast<int>(i) - 1;
    std::printf("%8u  %10.5f  %8.5f  %s\n", ids[i], scores.logprobs(row), scores.entropies(row),
                token.c_str());
  }
  std::printf("%d scored, sum %.5f nats, mean %.5f, perplexity %.5g\n", scores.logprobs_size(), sum,
              mean, std::exp(-mean));
}

absl::Status LogProbs(const LogProbsFlags& flags) {
  Shutdown shutdown;
  ROLLCALL_ASSIGN_OR_RETURN(const std::shared_ptr<const text::Tokenizer> tokenizer,
                            text::Tokenizer::Load(flags.model));
  ROLLCALL_ASSIGN_OR_RETURN(const std::string text,
                            ArgumentOrStandardInput(flags.text, "logprobs", "a text"));
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<uint32_t> ids,
                            tokenizer->Encode(text, !flags.no_special));
  if (ids.size() < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("logprobs: needs at least 2 tokens, the text has ", ids.size(),
                     ": nothing predicts the first"));
  }
  std::vector<std::string> sets = {absl::StrCat("model.path=", flags.model)};
  sets.insert(sets.end(), flags.sets.begin(), flags.sets.end());
  std::unique_ptr<LocalService> reference;
  ROLLCALL_ASSIGN_OR_RETURN(
      const std::shared_ptr<grpc::Channel> channel,
      ConnectOrStart(flags.connect, LocalService::Kind::kReference, sets, shutdown, reference));
  ROLLCALL_ASSIGN_OR_RETURN(const v1::LogProbResponse response,
                            Score(channel, ids, flags.temperature));
  Print(*tokenizer, ids, response.sequences(0), flags);
  return absl::OkStatus();
}

}  // namespace

void AddLogProbsCommand(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<LogProbsFlags>();
  CLI::App* command =
      app.add_subcommand("logprobs", "Log-prob and entropy of every token of a text, in nats");
  command
      ->add_option("model", flags->model,
                   "Hugging Face folder; with --connect its tokenizer is used")
      ->required();
  command->add_option("text", flags->text, "The text; standard input, as it is, if absent");
  command->add_option("--connect", flags->connect,
                      "Use a running reference service (host:port or unix:/path), start none");
  command->add_option("--temperature", flags->temperature, "Logits are divided by it")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag("--no-special", flags->no_special, "Add no special tokens (BOS)");
  command
      ->add_option("--set", flags->sets,
                   "Configuration of the reference, as in model.dtype=bfloat16; repeatable")
      ->allow_extra_args(false);
  command->add_flag("--json", flags->json,
                    "One JSON object: ids, tokens, logprobs, entropies, sum, mean, perplexity");
  command->callback([flags, &exit_code] { exit_code = Report(LogProbs(*flags)); });
}

}  // namespace rollcall::cli
