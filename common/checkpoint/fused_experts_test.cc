#include "common/checkpoint/fused_experts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/base/file.h"
#include "common/checkpoint/hf_folder.h"
#include "common/checkpoint/scratch_folder.h"

namespace rollcall::checkpoint {
namespace {

using ::testing::ElementsAre;

TensorView Bytes(const std::string& name, std::vector<int64_t> shape, std::string_view bytes) {
  return {name, wire::DType::kUInt8, std::move(shape), bytes};
}

std::vector<std::string> Listed(const std::optional<std::vector<TensorView>>& parts) {
  std::vector<std::string> lines;
  for (const TensorView& part : parts.value_or(std::vector<TensorView>{})) {
    EXPECT_EQ(part.shape.size(), 2u) << part.name;
    lines.push_back(part.name + " " + std::string(part.bytes));
  }
  return lines;
}

TEST(FusedExpertsTest, EveryMatrixIsAViewByItself) {
  // Two experts: gates of one row, then ups of one row, of three numbers each.
  const auto gate_up = Bytes("model.layers.1.mlp.experts.gate_up_proj", {2, 2, 3}, "gggUUUhhhVVV");
  EXPECT_THAT(Listed(SplitFusedExperts(gate_up, "qwen3_moe")),
              ElementsAre("model.layers.1.mlp.experts.0.gate_proj.weight ggg",
                          "model.layers.1.mlp.experts.0.up_proj.weight UUU",
                          "model.layers.1.mlp.experts.1.gate_proj.weight hhh",
                          "model.layers.1.mlp.experts.1.up_proj.weight VVV"));
  const auto down = Bytes("model.layers.0.mlp.experts.down_proj", {2, 3, 1}, "aaabbb");
  EXPECT_THAT(Listed(SplitFusedExperts(down, "mixtral")),
              ElementsAre("model.layers.0.block_sparse_moe.experts.0.w2.weight aaa",
                          "model.layers.0.block_sparse_moe.experts.1.w2.weight bbb"));
  EXPECT_EQ(SplitFusedExperts(down, "mixtral")->front().shape, (std::vector<int64_t>{3, 1}));
}

TEST(FusedExpertsTest, MixtralsRouterHasTwoNames) {
  const auto router = Bytes("model.layers.0.mlp.gate.weight", {2, 1}, "rr");
  EXPECT_THAT(Listed(SplitFusedExperts(router, "mixtral")),
              ElementsAre("model.layers.0.block_sparse_moe.gate.weight rr"));
  EXPECT_EQ(SplitFusedExperts(router, "qwen3_moe"), std::nullopt);
}

TEST(FusedExpertsTest, WhatIsNotOneStaysAsItIs) {
  for (const TensorView& tensor : {
           Bytes("model.layers.0.mlp.down_proj.weight", {2, 3}, "aaabbb"),
           Bytes("model.layers.0.mlp.experts.down_proj", {2, 3}, "aaabbb"),
           Bytes("model.layers.0.mlp.experts.down_proj", {0, 3, 1}, ""),
           Bytes("model.layers.0.mlp.experts.gate_up_proj", {1, 3, 2}, "aaabbb"),
       }) {
    EXPECT_EQ(SplitFusedExperts(tensor, "mixtral"), std::nullopt) << tensor.name;
  }
}

TEST(FusedExpertsTest, AFolderGivesThemUnderTheNamesOfTheHub) {
  const ScratchFolder scratch;
  ASSERT_TRUE(WriteFileAtomically(scratch / "config.json", R"({"model_type": "qwen3_moe"})").ok());
  auto writer = SafetensorsWriter::Create(
      scratch / "model.safetensors",
      {{"model.layers.0.mlp.experts.down_proj", wire::DType::kUInt8, {2, 1, 2}}});
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->Append("aabb").ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  auto opened = HfFolder::Open(scratch.path());
  ASSERT_TRUE(opened.ok()) << opened.status();
  const HfFolder folder = *std::move(opened);  // views outlive the object that was moved from
  ASSERT_EQ(folder.tensors().size(), 2u);
  EXPECT_EQ(folder.Find("model.layers.0.mlp.experts.1.down_proj.weight")->bytes, "bb");
}

}  // namespace
}  // namespace rollcall::checkpoint
