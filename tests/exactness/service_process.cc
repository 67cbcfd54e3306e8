#include "tests/exactness/service_process.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/health.h"
#include "common/rpc/status_conversion.h"

namespace rollcall::exactness {
namespace {

// The word after `key` in a text; empty: it is not there.
std::string WordAfter(const std::string& text, const std::string& key) {
  const size_t at = text.rfind(key);
  if (at == std::string::npos) return "";
  const size_t begin = at + key.size();
  return text.substr(begin, text.find_first_of(" \n", begin) - begin);
}

// The body of GET /metrics at 127.0.0.1:`port`, headers included.
std::string GetMetrics(uint16_t port) {
  const int socket_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
  std::string page;
  const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
  if (connect(socket_fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
      write(socket_fd, request.data(), request.size()) == static_cast<ssize_t>(request.size())) {
    char buffer[4096];
    for (ssize_t got = 0; (got = read(socket_fd, buffer, sizeof(buffer))) > 0;) {
      page.append(buffer, static_cast<size_t>(got));
    }
  }
  close(socket_fd);
  return page;
}

}  // namespace

ServiceProcess::ServiceProcess(const std::string& name, const std::string& folder,
                               const std::string& model, const std::vector<std::string>& sets)
    : address_(absl::StrCat("unix:", folder, "/", name, ".sock")),
      log_path_(absl::StrCat(folder, "/", name, ".log")) {
  const char* binaries = std::getenv("ROLLCALL_BIN_DIR");
  const std::string config = absl::StrCat(folder, "/", name, ".yaml");
  EXPECT_TRUE(WriteFileAtomically(config, absl::StrCat("model: {path: ", model, "}\n")).ok());
  cli::ChildSpec spec;
  spec.name = name;
  spec.log_path = log_path_;
  spec.argv = {absl::StrCat(binaries == nullptr ? "." : binaries, "/rollcall-", name),
               "--config",
               config,
               "--listen",
               address_,
               "--metrics-listen",
               "127.0.0.1:0"};
  for (const std::string& set : sets) spec.argv.insert(spec.argv.end(), {"--set", set});
  auto child = cli::ChildProcess::Start(spec);
  if (!child.ok()) {
    ADD_FAILURE() << child.status();
    return;
  }
  child_ = *std::move(child);
  const auto channel = *rpc::Connect(address_);
  const absl::Time deadline = absl::Now() + generator::testing::kPatience;
  while (!rpc::CheckHealth(channel, "", absl::Now() + absl::Seconds(1)).value_or(false)) {
    if (absl::Now() > deadline || child_->Poll().has_value()) {
      ADD_FAILURE() << "the " << name << " does not serve:\n" << ReadFile(log_path_).value_or("");
      return;
    }
  }
}

double ServiceProcess::Counter(const std::string& name) const {
  const std::string address = WordAfter(ReadFile(log_path_).value_or(""), "metrics=127.0.0.1:");
  uint32_t port = 0;
  if (!absl::SimpleAtoi(address, &port)) return -1;
  double value = -1;
  if (!absl::SimpleAtod(WordAfter(GetMetrics(static_cast<uint16_t>(port)), "\n" + name + " "),
                        &value)) {
    return -1;
  }
  return value;
}

ReferenceProcess::ReferenceProcess(const std::string& folder, const std::string& model,
                                   const std::vector<std::string>& sets)
    : ServiceProcess("reference", folder, model, sets),
      stub_(v1::LogProb::NewStub(*rpc::Connect(address()))) {}

absl::StatusOr<std::vector<std::vector<float>>> ReferenceProcess::Score(
    const std::vector<generator::testing::ScoredSequence>& sequences, double temperature) {
  v1::LogProbRequest request;
  request.set_temperature(static_cast<float>(temperature));
  for (const auto& sequence : sequences) {
    v1::TokenSequence& out = *request.add_sequences();
    out.mutable_token_ids()->Add(sequence.tokens.begin(), sequence.tokens.end());
    out.set_score_from(static_cast<uint32_t>(sequence.prompt_tokens));
  }
  grpc::ClientContext context;
  generator::testing::GeneratorClient::SetDeadline(&context);
  v1::LogProbResponse response;
  ROLLCALL_RETURN_IF_ERROR(rpc::FromGrpc(stub_->Score(&context, request, &response)));
  std::vector<std::vector<float>> scores;
  for (const v1::SequenceLogProbs& sequence : response.sequences()) {
    scores.emplace_back(sequence.logprobs().begin(), sequence.logprobs().end());
  }
  return scores;
}

}  // namespace rollcall::exactness
