#include "common/checkpoint/hf_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "common/base/file.h"
#include "common/checkpoint/scratch_folder.h"

namespace rollcall::checkpoint {
namespace {

using ::testing::HasSubstr;

void WriteText(const std::string& path, const std::string& text) {
  ASSERT_TRUE(WriteFileAtomically(path, text).ok());
}

// Every tensor: one byte, the first letter of its name.
void WriteShard(const std::string& path, const std::vector<std::string>& names) {
  std::vector<TensorEntry> entries;
  for (const std::string& name : names) entries.push_back({name, wire::DType::kUInt8, {1}});
  auto writer = SafetensorsWriter::Create(path, entries);
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (const std::string& name : names) ASSERT_TRUE((*writer)->Append(name.substr(0, 1)).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
}

class HfFolderTest : public ::testing::Test {
 protected:
  HfFolderTest() { WriteText(folder_ / "config.json", R"({"model_type": "llama"})"); }

  void ExpectRefused(absl::StatusCode code, const std::string& message) {
    const auto opened = HfFolder::Open(folder_.path());
    ASSERT_FALSE(opened.ok());
    EXPECT_EQ(opened.status().code(), code) << opened.status();
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr(message));
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr(folder_.path()));
  }
  void WriteIndex(const std::string& map) {
    WriteText(folder_ / "model.safetensors.index.json",
              R"({"metadata": {}, "weight_map": )" + map + "}");
  }

  const ScratchFolder folder_;
};

TEST_F(HfFolderTest, OneFile) {
  WriteShard(folder_ / "model.safetensors", {"b", "a"});
  WriteText(folder_ / "generation_config.json", R"({"eos_token_id": 2})");
  const auto opened = HfFolder::Open(folder_.path());
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->config_json(), R"({"model_type": "llama"})");
  EXPECT_EQ(opened->generation_config_json(), R"({"eos_token_id": 2})");
  ASSERT_EQ(opened->tensors().size(), 2u);
  EXPECT_EQ(opened->tensors()[0]->name, "a");
  EXPECT_EQ(opened->Find("b")->bytes, "b");
  EXPECT_EQ(opened->Find("c"), nullptr);
}

TEST_F(HfFolderTest, ShardsThatTheIndexNames) {
  WriteShard(folder_ / "one.safetensors", {"a", "b"});
  WriteShard(folder_ / "two.safetensors", {"c"});
  WriteIndex(R"({"a": "one.safetensors", "c": "two.safetensors", "b": "one.safetensors"})");
  const auto opened = HfFolder::Open(folder_.path());
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->tensors().size(), 3u);
  EXPECT_EQ(opened->Find("c")->bytes, "c");
  EXPECT_FALSE(opened->generation_config_json().has_value());
}

TEST_F(HfFolderTest, ViewsOutliveTheObjectThatWasMovedFrom) {
  WriteShard(folder_ / "model.safetensors", {"a"});
  auto opened = HfFolder::Open(folder_.path());
  ASSERT_TRUE(opened.ok());
  const HfFolder moved = *std::move(opened);
  EXPECT_EQ(moved.Find("a")->bytes, "a");
}

TEST_F(HfFolderTest, FoldersWithoutWhatAModelNeeds) {
  ExpectRefused(absl::StatusCode::kNotFound, "neither model.safetensors nor");
  WriteText(folder_ / "pytorch_model.bin", "pickle");
  ExpectRefused(absl::StatusCode::kNotFound, "pytorch_model.bin is a pickle");
  WriteText(folder_ / "model.safetensors", "short");
  ExpectRefused(absl::StatusCode::kInvalidArgument, "model.safetensors: only 5 bytes");
  WriteText(folder_ / "config.json", "[]");
  ExpectRefused(absl::StatusCode::kInvalidArgument, "config.json: not a JSON object");
  WriteText(folder_ / "config.json", "{\"a\": }");
  ExpectRefused(absl::StatusCode::kInvalidArgument, "config.json: not a JSON object");
  std::filesystem::remove(folder_ / "config.json");
  ExpectRefused(absl::StatusCode::kNotFound, "config.json");
  EXPECT_EQ(HfFolder::Open(folder_ / "absent").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(HfFolderTest, IndexesThatContradictTheirShards) {
  WriteShard(folder_ / "one.safetensors", {"a", "b"});
  WriteShard(folder_ / "two.safetensors", {"b"});
  WriteIndex(R"({"a": "one.safetensors", "x": "one.safetensors"})");
  ExpectRefused(absl::StatusCode::kInvalidArgument, "tensor 'x' is not in one.safetensors");
  WriteIndex(R"({"a": "one.safetensors"})");
  ExpectRefused(absl::StatusCode::kInvalidArgument,
                "does not say that tensor 'b' is in one.safetensors");
  WriteIndex(R"({"a": "one.safetensors", "b": "two.safetensors"})");
  ExpectRefused(absl::StatusCode::kInvalidArgument,
                "does not say that tensor 'b' is in one.safetensors");
  WriteIndex(R"({"a": "three.safetensors"})");
  ExpectRefused(absl::StatusCode::kNotFound, "three.safetensors");
  WriteIndex(R"({"a": "../one.safetensors"})");
  ExpectRefused(absl::StatusCode::kInvalidArgument, "must be a name in this folder");
  WriteIndex(R"({"a": 1})");
  ExpectRefused(absl::StatusCode::kInvalidArgument, "must be a name in this folder");
  WriteIndex("{}");
  ExpectRefused(absl::StatusCode::kInvalidArgument, "weight_map is missing or empty");
}

TEST(HfFolderGoldenTest, OpensRealFolders) {
  const char* const data = std::getenv("ROLLCALL_TEST_DATA");
  if (data == nullptr || !std::filesystem::exists(std::string(data) + "/golden/models")) {
    GTEST_SKIP() << "no golden models under ROLLCALL_TEST_DATA";
  }
  const std::map<std::string, size_t> tensor_counts = {
      {"/golden/models/llama_tied", 20}, {"/golden/models/llama_rope3", 30}, {"/stories260k", 47}};
  for (const auto& [name, count] : tensor_counts) {
    const auto opened = HfFolder::Open(data + name);
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_EQ(opened->tensors().size(), count) << name;
    EXPECT_NE(opened->Find("model.embed_tokens.weight"), nullptr);
  }
}

}  // namespace
}  // namespace rollcall::checkpoint
