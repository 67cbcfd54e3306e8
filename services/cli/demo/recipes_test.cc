#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "common/config/run_config.h"
#include "common/config/yaml.h"
#include "services/cli/demo/recipes.h"

namespace rollcall::cli {
namespace {

std::string SourceDir() {
  const char* folder = std::getenv("ROLLCALL_SOURCE_DIR");
  return folder == nullptr ? "." : folder;
}

// Every recipe we ship loads, and its effective form says the same.
TEST(Recipes, EveryShippedConfigLoads) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(SourceDir() + "/configs")) {
    if (entry.path().extension() != ".yaml") continue;
    ++count;
    const auto config = config::LoadRunConfig(entry.path().string(), {});
    ASSERT_TRUE(config.ok()) << config.status();
    v1::RunConfig again;
    const absl::Status reparsed =
        config::ParseYaml(config::FormatYaml(*config), "effective", {}, &again);
    ASSERT_TRUE(reparsed.ok()) << reparsed;
    EXPECT_EQ(again.SerializeAsString(), config->SerializeAsString()) << entry.path();
  }
  EXPECT_GE(count, 4);
}

TEST(Recipes, TheDemosConfigsLoad) {
  for (const std::string& yaml : {DemoSftYaml("/tmp/demo", 3), DemoGrpoYaml("/tmp/demo", 3)}) {
    v1::RunConfig config;
    const absl::Status parsed = config::ParseYaml(yaml, "demo", {}, &config);
    ASSERT_TRUE(parsed.ok()) << parsed;
    EXPECT_TRUE(config::ValidateRunConfig(config).ok()) << config::ValidateRunConfig(config);
    EXPECT_EQ(config.seed(), 3u);
  }
}

}  // namespace
}  // namespace rollcall::cli
