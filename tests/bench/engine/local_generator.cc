#include "tests/bench/engine/local_generator.h"

#include <grpcpp/channel.h>

#include <atomic>
#include <cstdlib>
#include <iostream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/file.h"
#include "common/config/run_config.h"
#include "common/rpc/channel.h"
#include "common/rpc/status_conversion.h"
#include "services/generator/generator.h"

namespace rollcall::bench {
namespace {

void Require(const absl::Status& status) {
  if (status.ok()) return;
  std::cerr << "engine_worker: " << status.ToString() << "\n";
  std::exit(1);
}

template <typename T>
T Require(absl::StatusOr<T> value) {
  Require(value.status());
  return *std::move(value);
}

}  // namespace

LocalGenerator::LocalGenerator(const std::string& folder, const std::string& model, int threads,
                               std::vector<std::string> sets) {
  const std::string yaml = folder + "/generator.yaml";
  Require(WriteFileAtomically(yaml, absl::StrCat("model: {path: ", model, ", dtype: bfloat16}\n")));
  sets.insert(sets.end(), {absl::StrCat("generator.threads=", threads),
                           "generator.kv_cache_bytes=2000000000", "model.context_tokens=4096"});
  config_ = Require(config::LoadRunConfig(yaml, sets, config::Role::kGenerator));
  service_ = Require(generator::MakeGenerator(
      {.config = config_, .metrics = metrics_, .shutdown = shutdown_, .report_health = [](bool) {
       }}));
  Require(service_->Start());
  const std::string address = absl::StrCat("unix:", folder, "/generator.sock");
  server_ =
      Require(rpc::Server::Start({.address = address, .serving = true}, service_->services()));
  stub_ = v1::Generator::NewStub(Require(rpc::Connect(address)));
}

LocalGenerator::~LocalGenerator() {
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  service_->CloseIntake();
  service_->Drain(deadline).IgnoreError();
  server_->Drain(deadline).IgnoreError();
}

int64_t LocalGenerator::GenerateAll(const std::vector<v1::GenerateRequest>& requests) {
  std::atomic<int64_t> tokens{0};
  std::vector<std::thread> clients;
  for (const v1::GenerateRequest& request : requests) {
    clients.emplace_back([&] { tokens += Generate(request); });
  }
  for (std::thread& client : clients) client.join();
  return tokens;
}

int64_t LocalGenerator::Generate(const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, request);
  v1::GenerateResponse message;
  int64_t tokens = 0;
  while (reader->Read(&message)) {
    for (const v1::SampleDelta& delta : message.deltas()) tokens += delta.token_ids_size();
  }
  Require(rpc::FromGrpc(reader->Finish()));
  return tokens;
}

}  // namespace rollcall::bench
