#include "services/generator/testing/generator_server.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/file.h"
#include "common/config/run_config.h"
#include "services/generator/generator.h"

namespace rollcall::generator::testing {

GeneratorServer::GeneratorServer(const std::string& model_path, std::vector<std::string> sets) {
  std::string pattern = ::testing::TempDir() + "/generator.XXXXXX";
  EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
  folder_ = pattern;
  const std::string yaml = folder_ + "/run.yaml";
  EXPECT_TRUE(WriteFileAtomically(yaml, absl::StrCat("model: {path: ", model_path, "}\n")).ok());
  sets.insert(sets.begin(), {"generator.threads=2", "generator.kv_cache_bytes=16000000"});
  auto config = config::LoadRunConfig(yaml, sets, config::Role::kGenerator);
  EXPECT_TRUE(config.ok()) << config.status();
  config_ = *std::move(config);
  auto made = MakeGenerator({.config = config_,
                             .metrics = metrics_,
                             .shutdown = shutdown_,
                             .report_health = [this](bool serving) {
                               serving_ = serving;
                               if (server_ != nullptr) server_->SetServing(serving);
                             }});
  EXPECT_TRUE(made.ok()) << made.status();
  service_ = *std::move(made);
  const absl::Status started = service_->Start();
  EXPECT_TRUE(started.ok()) << started;
  const std::string address = "unix:" + folder_ + "/socket";
  auto server = rpc::Server::Start({.address = address, .serving = serving_}, service_->services());
  EXPECT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
  Connect(address);
}

GeneratorServer::~GeneratorServer() {
  service_->CloseIntake();
  service_->Drain(absl::Now() + kPatience).IgnoreError();
  EXPECT_TRUE(server_->Drain(absl::Now() + kPatience).ok());
  server_.reset();
  service_.reset();
  std::filesystem::remove_all(folder_);
}

}  // namespace rollcall::generator::testing
