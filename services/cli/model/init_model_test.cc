#include "services/cli/model/init_model.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "common/base/file.h"
#include "common/checkpoint/hf_folder.h"
#include "services/cli/demo/addition_task.h"
#include "services/cli/demo/recipes.h"

namespace rollcall::cli {
namespace {

class InitModelTest : public testing::Test {
 protected:
  std::string NewFolder(const std::string& name) {
    const std::string folder = testing::TempDir() + "init_model_" + name;
    std::filesystem::remove_all(folder);
    EXPECT_TRUE(WriteAdditionTokenizer(folder).ok());
    EXPECT_TRUE(WriteFileAtomically(folder + "/config.json", DemoModelConfig()).ok());
    return folder;
  }
};

TEST_F(InitModelTest, MakesTheDemosModelWithItsTokenizer) {
  const std::string folder = NewFolder("demo");
  ASSERT_TRUE(InitializeModelFolder(folder, 7, wire::DType::kFloat32).ok());
  const auto opened = checkpoint::HfFolder::Open(folder);
  ASSERT_TRUE(opened.ok()) << opened.status();
  uint64_t parameters = 0;
  for (const checkpoint::TensorView* tensor : opened->tensors())
    parameters += tensor->bytes.size() / sizeof(float);
  EXPECT_EQ(parameters, 332'416u);
  EXPECT_TRUE(std::filesystem::exists(folder + "/tokenizer.json"));
  EXPECT_TRUE(std::filesystem::exists(folder + "/generation_config.json"));
  EXPECT_EQ(InitializeModelFolder(folder, 7, wire::DType::kFloat32).code(),
            absl::StatusCode::kAlreadyExists);
}

TEST_F(InitModelTest, IsAFunctionOfItsSeed) {
  const std::string a = NewFolder("a");
  const std::string b = NewFolder("b");
  const std::string c = NewFolder("c");
  ASSERT_TRUE(InitializeModelFolder(a, 1, wire::DType::kFloat32).ok());
  ASSERT_TRUE(InitializeModelFolder(b, 1, wire::DType::kFloat32).ok());
  ASSERT_TRUE(InitializeModelFolder(c, 2, wire::DType::kFloat32).ok());
  EXPECT_EQ(ReadFile(a + "/model.safetensors").value(), ReadFile(b + "/model.safetensors").value());
  EXPECT_NE(ReadFile(a + "/model.safetensors").value(), ReadFile(c + "/model.safetensors").value());
}

}  // namespace
}  // namespace rollcall::cli
