#include "common/checkpoint/parameters.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/base/file.h"
#include "common/checkpoint/hf_writer.h"
#include "common/checkpoint/scratch_folder.h"

namespace rollcall::checkpoint {
namespace {

using tensor::NamedTensor;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

at::Tensor Ramp(std::vector<int64_t> shape, at::ScalarType type = at::kFloat, double start = 0) {
  int64_t count = 1;
  for (const int64_t dimension : shape) count *= dimension;
  return at::arange(count, at::TensorOptions().dtype(at::kDouble))
      .add(start)
      .div(8)
      .reshape(shape)
      .to(type);
}

HfFolderSpec TinySpec() {
  HfFolderSpec spec;
  spec.config_json = R"({"model_type": "llama", "torch_dtype": "float32", "vocab_size": 4})";
  spec.tensors = {{"model.embed_tokens.weight", Ramp({4, 2})},
                  {"model.norm.weight", Ramp({2}, at::kFloat, 7)}};
  return spec;
}

std::vector<NamedTensor> ZerosLike(const std::vector<NamedTensor>& tensors,
                                   at::ScalarType type = at::kFloat) {
  std::vector<NamedTensor> zeros;
  for (const NamedTensor& named : tensors) {
    zeros.push_back(
        {named.name,
         at::zeros(named.tensor.sizes(), at::TensorOptions().dtype(type)).requires_grad_()});
  }
  return zeros;
}

TEST(WriteHfFolderTest, WhatIsWrittenLoadsBitForBit) {
  const ScratchFolder scratch;
  const HfFolderSpec spec = TinySpec();
  ASSERT_TRUE(WriteHfFolder(scratch / "model", spec).ok());
  const auto folder = HfFolder::Open(scratch / "model");
  ASSERT_TRUE(folder.ok()) << folder.status();
  const std::vector<NamedTensor> loaded = ZerosLike(spec.tensors);
  const absl::Status status = LoadParameters(*folder, loaded);
  ASSERT_TRUE(status.ok()) << status;
  for (size_t i = 0; i < loaded.size(); ++i)
    EXPECT_TRUE(at::equal(loaded[i].tensor, spec.tensors[i].tensor));
}

TEST(WriteHfFolderTest, StoresTheDTypeAskedForAndSaysSoInTheConfig) {
  const ScratchFolder scratch;
  HfFolderSpec spec = TinySpec();
  spec.dtype = wire::DType::kBFloat16;
  ASSERT_TRUE(WriteHfFolder(scratch / "model", spec).ok());
  const auto folder = HfFolder::Open(scratch / "model");
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ(folder->tensors()[0]->dtype, wire::DType::kBFloat16);
  const auto config = nlohmann::json::parse(folder->config_json());
  EXPECT_EQ(config.at("torch_dtype"), "bfloat16");
  EXPECT_EQ(config.at("vocab_size"), 4);
  EXPECT_FALSE(config.contains("dtype"));
  // Loading widens it again: the rounded values, in the parameter's own dtype.
  const std::vector<NamedTensor> loaded = ZerosLike(spec.tensors);
  ASSERT_TRUE(LoadParameters(*folder, loaded).ok());
  EXPECT_TRUE(at::equal(loaded[1].tensor, spec.tensors[1].tensor.to(at::kBFloat16).to(at::kFloat)));
}

TEST(WriteHfFolderTest, SplitsIntoShardsWithAnIndex) {
  const ScratchFolder scratch;
  HfFolderSpec spec = TinySpec();
  spec.tensors.push_back({"lm_head.weight", Ramp({4, 2}, at::kFloat, 3)});
  spec.max_shard_bytes = 40;  // 32 + 8, then 32
  ASSERT_TRUE(WriteHfFolder(scratch / "model", spec).ok());
  EXPECT_TRUE(std::filesystem::exists(scratch / "model/model-00001-of-00002.safetensors"));
  EXPECT_FALSE(std::filesystem::exists(scratch / "model/model.safetensors"));
  const auto index =
      nlohmann::json::parse(ReadFile(scratch / "model/model.safetensors.index.json").value());
  EXPECT_EQ(index.at("metadata").at("total_size"), 72);
  EXPECT_EQ(index.at("weight_map").at("model.norm.weight"), "model-00001-of-00002.safetensors");
  const auto folder = HfFolder::Open(scratch / "model");
  ASSERT_TRUE(folder.ok()) << folder.status();
  const std::vector<NamedTensor> loaded = ZerosLike(spec.tensors);
  ASSERT_TRUE(LoadParameters(*folder, loaded).ok());
  EXPECT_TRUE(at::equal(loaded[2].tensor, spec.tensors[2].tensor));
}

TEST(WriteHfFolderTest, CarriesTheTokenizerOverAndReplacesAnOlderFolder) {
  const ScratchFolder scratch;
  ASSERT_TRUE(MakeDirectories(scratch / "source").ok());
  const std::string odd_bytes("{\"a\" :1}\r\n\0\xff", 12);
  for (const char* name : kCarriedFiles) {
    ASSERT_TRUE(
        WriteFileAtomically(scratch / ("source/" + std::string(name)), odd_bytes + name).ok());
  }
  const std::string further = "/" + std::string(kCarriedTemplates);
  ASSERT_TRUE(MakeDirectories(scratch / ("source" + further)).ok());
  ASSERT_TRUE(WriteFileAtomically(scratch / ("source" + further + "/rag.jinja"), odd_bytes).ok());
  ASSERT_TRUE(WriteFileAtomically(scratch / ("source" + further + "/notes.txt"), "x").ok());
  ASSERT_TRUE(WriteFileAtomically(scratch / "source/training_args.bin", "x").ok());
  ASSERT_TRUE(MakeDirectories(scratch / "model").ok());
  ASSERT_TRUE(WriteFileAtomically(scratch / "model/stale", "x").ok());
  HfFolderSpec spec = TinySpec();
  spec.source_folder = scratch / "source";
  ASSERT_TRUE(WriteHfFolder(scratch / "model", spec).ok());
  for (const char* name : kCarriedFiles) {
    EXPECT_EQ(ReadFile(scratch / ("model/" + std::string(name))).value(), odd_bytes + name);
  }
  EXPECT_EQ(ReadFile(scratch / ("model" + further + "/rag.jinja")).value(), odd_bytes);
  EXPECT_FALSE(std::filesystem::exists(scratch / ("model" + further + "/notes.txt")));
  EXPECT_FALSE(std::filesystem::exists(scratch / "model/training_args.bin"));
  EXPECT_FALSE(std::filesystem::exists(scratch / "model/stale"));
}

TEST(WriteHfFolderTest, AFailureLeavesTheOldFolder) {
  const ScratchFolder scratch;
  ASSERT_TRUE(WriteHfFolder(scratch / "model", TinySpec()).ok());
  HfFolderSpec twice = TinySpec();
  twice.tensors.push_back(twice.tensors[0]);
  EXPECT_EQ(WriteHfFolder(scratch / "model", twice).code(), absl::StatusCode::kInvalidArgument);
  HfFolderSpec no_config = TinySpec();
  no_config.config_json = "model";
  EXPECT_EQ(WriteHfFolder(scratch / "model", no_config).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(HfFolder::Open(scratch / "model").ok());
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(scratch.path()), {}), 1);
}

TEST(LoadParametersTest, OneErrorListsEverything) {
  const ScratchFolder scratch;
  HfFolderSpec spec = TinySpec();
  spec.tensors.push_back({"model.layers.0.extra", Ramp({1})});
  spec.tensors.push_back({"model.counts", at::zeros({2}, at::TensorOptions().dtype(at::kLong))});
  ASSERT_TRUE(WriteHfFolder(scratch / "model", spec).ok());
  const auto folder = HfFolder::Open(scratch / "model");
  ASSERT_TRUE(folder.ok()) << folder.status();
  const std::vector<NamedTensor> parameters = {{"model.embed_tokens.weight", at::zeros({4, 3})},
                                               {"model.norm.weight", at::zeros({2})},
                                               {"model.counts", at::zeros({2})},
                                               {"lm_head.weight", at::zeros({4, 2})}};
  const absl::Status status = LoadParameters(*folder, parameters);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("in 4 tensors"),
                    HasSubstr("model.embed_tokens.weight: shape [4, 2], the model has [4, 3]"),
                    HasSubstr("lm_head.weight: missing"),
                    HasSubstr("model.layers.0.extra: not a tensor of this model"),
                    HasSubstr("model.counts: dtype I64 cannot be loaded as a weight"),
                    Not(HasSubstr("model.norm.weight"))));
  EXPECT_TRUE(at::equal(parameters[1].tensor, at::zeros({2}))) << "nothing may change on an error";
}

TEST(LoadParametersTest, SurplusThatIsHarmlessIsAccepted) {
  const ScratchFolder scratch;
  const std::vector<NamedTensor> parameters = ZerosLike(TinySpec().tensors);
  HfFolderSpec spec = TinySpec();
  spec.tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", Ramp({3})});
  spec.tensors.push_back({"lm_head.weight", spec.tensors[0].tensor.clone()});
  ASSERT_TRUE(WriteHfFolder(scratch / "model", spec).ok());
  EXPECT_TRUE(LoadParameters(*HfFolder::Open(scratch / "model"), parameters).ok());

  spec.tensors.back().tensor = Ramp({4, 2}, at::kFloat, 1);
  ASSERT_TRUE(WriteHfFolder(scratch / "model", spec).ok());
  const absl::Status status = LoadParameters(*HfFolder::Open(scratch / "model"), parameters);
  EXPECT_THAT(std::string(status.message()), HasSubstr("lm_head.weight: the model ties it"));
}

TEST(SaveTensorsTest, TrainingStateComesBackExactly) {
  const ScratchFolder scratch;
  const std::vector<NamedTensor> state = {
      {"exp_avg/a", Ramp({2, 3}).t()},  // not contiguous
      {"step", at::zeros({}, at::TensorOptions().dtype(at::kLong)).add(12)},
      {"master", Ramp({3}, at::kDouble).requires_grad_()},
      {"mask", at::zeros({2}, at::TensorOptions().dtype(at::kBool))},
      {"compute", Ramp({5}, at::kBFloat16)},
      {"nothing", at::zeros({0, 4})}};
  ASSERT_TRUE(SaveTensors(scratch / "optimizer.safetensors", state).ok());
  const auto loaded = LoadTensors(scratch / "optimizer.safetensors");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ASSERT_EQ(loaded->size(), state.size());
  for (const NamedTensor& named : state) {
    const at::Tensor& tensor = loaded->at(named.name);
    EXPECT_EQ(tensor.scalar_type(), named.tensor.scalar_type()) << named.name;
    EXPECT_TRUE(at::equal(tensor, named.tensor.detach())) << named.name;
    EXPECT_FALSE(tensor.requires_grad());
  }
}

TEST(SaveTensorsTest, WhatCannotBeStoredIsAStatus) {
  const ScratchFolder scratch;
  EXPECT_EQ(SaveTensors(scratch / "x",
                        std::vector<NamedTensor>{{"c", at::zeros({1}).to(at::kComplexFloat)}})
                .code(),
            absl::StatusCode::kUnimplemented);
  EXPECT_EQ(SaveTensors(scratch / "x", std::vector<NamedTensor>{{"a", Ramp({1})}, {"a", Ramp({1})}})
                .code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
  EXPECT_EQ(LoadTensors(scratch / "x").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace rollcall::checkpoint
