#include "common/model/adapter_folder.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "common/base/file.h"
#include "common/checkpoint/parameters.h"
#include "common/checkpoint/safetensors.h"
#include "common/checkpoint/scratch_folder.h"
#include "common/model/test_models.h"

namespace rollcall::model {
namespace {

using ::testing::HasSubstr;
using testing::RandomDecoder;
using testing::SameBits;
using testing::SmallConfig;

const std::string kBase(32, 'b');

class AdapterFolderTest : public ::testing::Test {
 protected:
  AdapterFolderTest() {
    EXPECT_TRUE(decoder_
                    .AddAdapter({.r = 3,
                                 .alpha = 6,
                                 .target_modules = {"q_proj", "down_proj"},
                                 .base_model = "org/base"})
                    .ok());
    decoder_.InitializeAdapter(1);
    const at::NoGradGuard no_grad;
    PhiloxStream random(2, 2);
    for (const auto& [name, tensor] : decoder_.adapter_parameters()) {
      tensor.copy_(testing::RandomNormal(tensor.sizes(), random));
    }
  }

  void Write() { ASSERT_TRUE(WriteAdapterFolder(folder_, decoder_, kBase, "").ok()); }
  absl::Status Load(const std::string& base = kBase) { return LoadAdapter(folder_, base, other_); }
  void SetField(const char* field, const nlohmann::json& value) {
    const std::string file = folder_ + "/" + kAdapterConfigFile;
    nlohmann::json json = nlohmann::json::parse(*ReadFile(file));
    json[field] = value;
    ASSERT_TRUE(WriteFileAtomically(file, json.dump()).ok());
  }
  void Save(std::map<std::string, at::Tensor> tensors) {
    std::vector<tensor::NamedTensor> named;
    for (const auto& [name, tensor] : tensors) named.push_back({name, tensor});
    ASSERT_TRUE(checkpoint::SaveTensors(TensorsFile(), named).ok());
  }
  std::string TensorsFile() const { return folder_ + "/" + kAdapterTensorsFile; }

  checkpoint::ScratchFolder scratch_;
  const std::string folder_ = scratch_ / "adapter";
  Decoder decoder_ = RandomDecoder(SmallConfig(), at::kFloat, 1);
  Decoder other_ = RandomDecoder(SmallConfig(), at::kBFloat16, 1);
};

TEST_F(AdapterFolderTest, WhatIsWrittenIsReadBackBitForBit) {
  Write();
  ASSERT_TRUE(Load().ok()) << Load();
  ASSERT_EQ(other_.adapter_parameters().size(), 8u);
  for (size_t i = 0; i < 8; ++i) {
    const auto& [name, tensor] = other_.adapter_parameters()[i];
    EXPECT_EQ(name, decoder_.adapter_parameters()[i].name);
    EXPECT_TRUE(SameBits(tensor, decoder_.adapter_parameters()[i].tensor)) << name;
  }
  EXPECT_TRUE(other_.lora()->SameFunction(*decoder_.lora()));
  EXPECT_EQ(other_.lora()->base_model, "org/base");
  EXPECT_TRUE(Load("").ok()) << "nothing to compare the base with";
}

TEST_F(AdapterFolderTest, AnotherBaseIsRefused) {
  Write();
  const absl::Status status = Load(std::string(32, 'c'));
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("trained on other base weights (manifest 62626262"));
  EXPECT_EQ(other_.lora(), nullptr);
}

TEST_F(AdapterFolderTest, PeftsOwnFilesSayNothingOfTheBase) {
  Write();
  auto tensors = *checkpoint::LoadTensors(TensorsFile());
  for (auto& [name, tensor] : tensors) tensor = tensor.to(at::kHalf);
  Save(tensors);
  ASSERT_TRUE(Load().ok()) << "another dtype is converted";
  EXPECT_EQ(other_.adapter_parameters()[0].tensor.scalar_type(), at::kFloat);
}

TEST_F(AdapterFolderTest, EveryTensorThatDoesNotFitIsNamed) {
  Write();
  auto tensors = *checkpoint::LoadTensors(TensorsFile());
  const std::string layer = "base_model.model.model.layers.0.";
  tensors.erase(layer + "self_attn.q_proj.lora_B.weight");
  tensors[layer + "self_attn.q_proj.lora_A.weight"] = at::zeros({4, 72});
  tensors[layer + "self_attn.q_proj.lora_magnitude_vector"] = at::zeros({144});
  Save(tensors);
  const absl::Status status = Load();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("in 3 tensors"));
  EXPECT_THAT(status.message(), HasSubstr("self_attn.q_proj.lora_B.weight: missing"));
  EXPECT_THAT(status.message(), HasSubstr("lora_A.weight: shape [4, 72], the model has [3, 72]"));
  EXPECT_THAT(status.message(), HasSubstr("lora_magnitude_vector: not one of them"));
  EXPECT_EQ(other_.lora(), nullptr);
}

TEST_F(AdapterFolderTest, RanksThatDisagreeAreRefused) {
  Write();
  SetField("r", 5);
  EXPECT_THAT(Load().message(), HasSubstr("shape [3, 72], the model has [5, 72]"));
}

TEST_F(AdapterFolderTest, SaysWhatIsMissing) {
  EXPECT_TRUE(absl::IsNotFound(Load()));
  Write();
  std::filesystem::rename(TensorsFile(), folder_ + "/adapter_model.bin");
  EXPECT_TRUE(absl::IsNotFound(Load()));
  EXPECT_THAT(Load().message(), HasSubstr("pickled adapter_model.bin, which is not read"));
}

TEST_F(AdapterFolderTest, ATruncatedFileIsRefused) {
  Write();
  std::filesystem::resize_file(TensorsFile(), std::filesystem::file_size(TensorsFile()) - 1);
  EXPECT_TRUE(absl::IsInvalidArgument(Load()));
}

v1::ModelSection Section(uint32_t r, const std::string& path) {
  v1::ModelSection section;
  section.set_path("models/base");
  section.mutable_lora()->set_r(r);
  section.mutable_lora()->set_alpha(16);
  section.mutable_lora()->set_path(path);
  return section;
}

TEST_F(AdapterFolderTest, TheModelSectionSaysWhichAdapter) {
  ASSERT_TRUE(AddConfiguredAdapter(Section(0, ""), 7, other_).ok());
  EXPECT_EQ(other_.lora(), nullptr);
  ASSERT_TRUE(AddConfiguredAdapter(Section(4, ""), 7, other_).ok());
  EXPECT_EQ(other_.lora()->r, 4);
  EXPECT_EQ(other_.lora()->target_modules.size(), 7u);
  EXPECT_EQ(other_.lora()->base_model, "models/base");
  EXPECT_GT(other_.adapter_parameters()[0].tensor.abs().max().item<double>(), 0.0);

  Write();
  ASSERT_TRUE(AddConfiguredAdapter(Section(0, folder_), 7, other_).ok());
  EXPECT_EQ(other_.lora()->r, 3) << "the file's settings hold";
  EXPECT_THAT(AddConfiguredAdapter(Section(4, folder_), 7, other_).message(),
              HasSubstr("model.lora.r: 4, but the adapter of model.lora.path has 3"));
  EXPECT_THAT(AddConfiguredAdapter(Section(0, "absent"), 7, other_).message(),
              HasSubstr("model.lora.path: cannot open absent/adapter_config.json"));
}

}  // namespace
}  // namespace rollcall::model
