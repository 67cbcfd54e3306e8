#include "services/cli/model/list_models.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "common/base/shutdown.h"

namespace rollcall::cli {
namespace {

TEST(ListModelsTest, NamesEveryFamily) {
  std::ostringstream out, errors;
  const std::vector<std::string> arguments = {"--json"};
  ASSERT_EQ(RunModels(arguments, out, errors), kExitClean) << errors.str();
  std::set<std::string> names;
  const auto json = nlohmann::json::parse(out.str());
  for (const auto& family : json.at("families")) {
    names.insert(family.at("model_type").get<std::string>());
    EXPECT_EQ(family.at("architectures").size(), 3u);
  }
  EXPECT_THAT(names,
              testing::ElementsAre("gemma2", "gemma3_text", "llama", "mistral", "mixtral", "olmo2",
                                   "phi3", "qwen2", "qwen3", "qwen3_moe", "smollm3"));
}

TEST(ListModelsTest, OneLineEach) {
  std::ostringstream out, errors;
  ASSERT_EQ(RunModels({}, out, errors), kExitClean);
  EXPECT_THAT(out.str(), testing::AllOf(testing::HasSubstr("\nqwen3_moe     Qwen3 30B-A3B"),
                                        testing::HasSubstr("\nphi3          Phi-3")));
  const std::vector<std::string> unknown = {"--nothing"};
  EXPECT_EQ(RunModels(unknown, out, errors), kExitUsage);
}

}  // namespace
}  // namespace rollcall::cli
