#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "services/cli/up/monitoring_plan.h"
#include "services/cli/up/prometheus.h"
#include "services/cli/up/prometheus_rules.h"

namespace rollcall::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

v1::RunConfig Config() {
  v1::RunConfig config;
  config.set_stage(v1::STAGE_RL);
  config.mutable_learner()->set_ranks(1);
  config.mutable_generator()->set_replicas(2);
  config.mutable_algorithm()->set_kl_coefficient(0.01f);
  config.mutable_reward()->add_verifiers()->set_name("answer");
  v1::VerifierConfig* model = config.mutable_reward()->add_verifiers();
  model->set_name("quality");
  model->mutable_reward_model()->set_path("/m");
  return config;
}

absl::StatusOr<uint16_t> From7000(uint32_t) { return 7000; }

std::vector<std::string> Lines(const v1::RunConfig& config) {
  std::vector<std::string> lines;
  for (const ScrapeTarget& target : ScrapeTargetsOf(config)) {
    lines.push_back(target.service + " " + target.address);
  }
  return lines;
}

TEST(MonitoringPlan, EveryServiceThatIsStartedIsATarget) {
  v1::RunConfig config = Config();
  ASSERT_TRUE(AddMetricsAddresses(&config, From7000).ok());
  EXPECT_THAT(Lines(config), ElementsAre("generator 127.0.0.1:7001", "generator 127.0.0.1:7002",
                                         "reward-model 127.0.0.1:7005", "reward 127.0.0.1:7003",
                                         "reference 127.0.0.1:7004", "learner 127.0.0.1:7000"));
  // What runs elsewhere is not started, and scraped by who runs it.
  config.mutable_reward()->set_address("elsewhere:1");
  config.mutable_generator()->add_addresses("elsewhere:2");
  EXPECT_THAT(Lines(config), ElementsAre("reference 127.0.0.1:7004", "learner 127.0.0.1:7000"));
}

TEST(MonitoringPlan, AnAddressThatIsConfiguredStays) {
  v1::RunConfig config = Config();
  config.mutable_learner()->set_metrics_listen("127.0.0.1:9400");
  uint32_t asked = 0;
  ASSERT_TRUE(AddMetricsAddresses(&config, [&asked](uint32_t count) {
                asked = count;
                return absl::StatusOr<uint16_t>(7000);
              }).ok());
  EXPECT_EQ(asked, 5u);
  EXPECT_EQ(config.learner().metrics_listen(), "127.0.0.1:9400");
  EXPECT_EQ(config.generator().metrics_listen(), "127.0.0.1:7000");
}

TEST(MonitoringPlan, FreePortsAreNeighboursAndTakenOnesAreNot) {
  const absl::StatusOr<uint16_t> first = FindFreePorts(4);
  ASSERT_TRUE(first.ok());
  EXPECT_GT(*first, 1024);
  EXPECT_TRUE(absl::IsResourceExhausted(FindFreePorts(70000).status()));
}

TEST(MonitoringPlan, TheConfigurationNamesTargetsAndRules) {
  const std::string text = PrometheusConfig({{"learner", "127.0.0.1:7000"}}, 3, "/rules");
  EXPECT_THAT(text, HasSubstr("scrape_interval: 3s"));
  EXPECT_THAT(text, HasSubstr("rule_files: ['/rules/*.yml']\n"));
  EXPECT_THAT(text, HasSubstr("- targets: ['127.0.0.1:7000']\n        labels: {service: learner}"));
}

TEST(PrometheusRulesTest, AreThoseOfTheSources) {
  for (const RuleFile& file : PrometheusRules()) {
    const std::string path = std::string(std::getenv("ROLLCALL_SOURCE_DIR")) +
                             "/deploy/prometheus/rules/" + std::string(file.name);
    EXPECT_EQ(ReadFile(path).value(), file.text);
  }
}

TEST(PrometheusBinary, IsWhereItIsSaidToBe) {
  const std::string path = absl::StrCat(testing::TempDir(), "a_prometheus_", ::getpid());
  std::remove(path.c_str());
  EXPECT_THAT(Prometheus::FindBinary(path).status().message(), HasSubstr("is no program"));
  std::ofstream(path) << "#!/bin/sh\nexit 3\n";
  ::chmod(path.c_str(), 0755);
  EXPECT_EQ(Prometheus::FindBinary(path).value(), path);
  const auto started = Prometheus::Start({.binary = path,
                                          .folder = testing::TempDir() + "prometheus",
                                          .listen = "",
                                          .scrape_seconds = 5,
                                          .targets = {}});
  EXPECT_TRUE(absl::IsFailedPrecondition(started.status()));
  EXPECT_THAT(std::string(started.status().message()), HasSubstr("ended with exit code 3"));
}

TEST(PrometheusBinary, MissingSaysHowToGetIt) {
  const std::string path = std::getenv("PATH"), home = std::getenv("HOME");
  ::setenv("PATH", "/nowhere", 1);
  ::setenv("HOME", "/nowhere", 1);
  ::unsetenv("XDG_CACHE_HOME");
  ::unsetenv("ROLLCALL_PROMETHEUS");
  const absl::StatusOr<std::string> found = Prometheus::FindBinary("");
  ::setenv("PATH", path.c_str(), 1);
  ::setenv("HOME", home.c_str(), 1);
  EXPECT_TRUE(absl::IsNotFound(found.status()));
  EXPECT_THAT(std::string(found.status().message()), HasSubstr("apt-get install prometheus"));
}

}  // namespace
}  // namespace rollcall::cli
