// Files made to do harm. Every answer is a status that says what is wrong, or a file that is
// consistent in itself; never a crash, an endless wait or a read outside the file. Run longer under
// AddressSanitizer: ROLLCALL_FUZZ_ROUNDS=1000000 build/asan/bin/checkpoint_test.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/philox.h"
#include "common/checkpoint/hf_folder.h"
#include "common/checkpoint/parameters.h"
#include "common/checkpoint/scratch_folder.h"

namespace rollcall::checkpoint {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

uint64_t Rounds(uint64_t fast) {
  const char* asked = std::getenv("ROLLCALL_FUZZ_ROUNDS");
  return asked == nullptr ? fast : std::strtoull(asked, nullptr, 10);
}

// Not synced to the disk: a fuzzer writes thousands.
void WriteBytes(const std::string& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << bytes;
  ASSERT_TRUE(out.flush().good()) << path;
}

// A safetensors file that is right, or nearly so.
class FileDrawer {
 public:
  explicit FileDrawer(uint64_t seed) : random_(seed, 17) {}

  std::string Draw() {
    tensors_.clear();
    data_ = 0;
    for (uint64_t i = random_.Below(5); i > 0; --i) AddTensor();
    std::string header = absl::StrCat("{", Chance(2) ? R"("__metadata__":{"format":"pt"},)" : "",
                                      absl::StrJoin(tensors_, ","));
    if (header.back() == ',') header.pop_back();
    header += "}";
    for (uint64_t i = random_.Below(4); i > 0; --i) Damage(header);
    std::string bytes(8, '\0');
    const uint64_t length = Chance(8) ? Extreme() : header.size();
    std::memcpy(bytes.data(), &length, 8);
    bytes += header + std::string(data_, 'd');
    if (Chance(6)) bytes.resize(random_.Below(bytes.size() + 1));
    if (Chance(10)) bytes += "tail";
    return bytes;
  }

 private:
  bool Chance(uint64_t one_in) { return random_.Below(one_in) == 0; }
  template <size_t n>
  const char* OneOf(const char* const (&choices)[n]) {
    return choices[random_.Below(n)];
  }

  uint64_t Extreme() {
    constexpr uint64_t kEdges[] = {
        0,           1,          7,          8,          99'999'999,
        100'000'001, 1ull << 31, 1ull << 32, 1ull << 62, (1ull << 63) - 1,
        1ull << 63,  ~0ull};
    return kEdges[random_.Below(std::size(kEdges))] + random_.Below(2);
  }

  void AddTensor() {
    static constexpr const char* kNames[] = {
        "a",         "model.embed_tokens.weight", "",         "__metadata__",
        R"(\u0000)", R"(\ud83d\ude00)",           "\xc3\xa9", R"(x\"y)"};
    static constexpr const char* kTypes[] = {"F32", "BF16", "F64", "U8", "F8_E4M3", "f32", ""};
    static constexpr uint64_t kSizes[] = {4, 2, 8, 1, 1, 4, 1};
    const uint64_t type = random_.Below(Chance(5) ? std::size(kTypes) : 4);
    std::vector<uint64_t> shape;
    uint64_t elements = 1;
    for (uint64_t i = random_.Below(4); i > 0; --i) {
      shape.push_back(Chance(12) ? Extreme() : random_.Below(4));
      elements *= shape.back();
    }
    const uint64_t begin = Chance(15) ? Extreme() : data_;
    const uint64_t bytes = elements * kSizes[type] < 4096 ? elements * kSizes[type] : 16;
    const uint64_t end = Chance(15) ? Extreme() : data_ + bytes;
    data_ += bytes;
    // Half of the names differ.
    const std::string name = Chance(2) ? absl::StrCat("t", tensors_.size()) : OneOf(kNames);
    tensors_.push_back(absl::StrCat("\"", name, R"(":{"dtype":")", kTypes[type], R"(","shape":[)",
                                    absl::StrJoin(shape, ","), R"(],"data_offsets":[)", begin, ",",
                                    end, "]}"));
  }

  void Damage(std::string& header) {
    static constexpr const char* kTokens[] = {"{",
                                              "}",
                                              "[",
                                              "]",
                                              ",",
                                              ":",
                                              "\"",
                                              "\\",
                                              "null",
                                              "true",
                                              "-1",
                                              "1e9",
                                              "1e400",
                                              "0.5",
                                              "NaN",
                                              "\xff",
                                              "\xed\xa0\x80",
                                              R"("a":)",
                                              "\"\"",
                                              " ",
                                              "\\ud800",
                                              "\n",
                                              "999999999999999999999999",
                                              R"("shape":[2],)",
                                              "[[[[[[[["};
    const size_t at = random_.Below(header.size() + 1);
    switch (random_.Below(5)) {
      case 0:
        header.insert(at, OneOf(kTokens));
        break;
      case 1:
        header.erase(at, random_.Below(6));
        break;
      case 2:
        if (at < header.size())
          header[at] = static_cast<char>(header[at] ^ (1 << random_.Below(8)));
        break;
      case 3:
        header.insert(at, header.substr(random_.Below(header.size() + 1), random_.Below(40)));
        break;
      default:
        break;
    }
    if (header.empty()) header = "{";
  }

  PhiloxStream random_;
  std::vector<std::string> tensors_;
  uint64_t data_ = 0;
};

void ExpectConsistent(const SafetensorsHeader& header, const std::string& bytes) {
  uint64_t position = 0;
  for (const TensorRecord& tensor : header.tensors) {
    EXPECT_EQ(tensor.begin, position);
    EXPECT_EQ(*wire::ByteSize(tensor.dtype, tensor.shape),
              static_cast<int64_t>(tensor.end - tensor.begin));
    position = tensor.end;
  }
  EXPECT_EQ(header.data_offset + position, bytes.size());
}

TEST(HostileSafetensorsTest, AnyBytesGiveAStatusOrAConsistentHeader) {
  const uint64_t rounds = Rounds(20'000);
  uint64_t accepted = 0;
  FileDrawer drawer(1);
  for (uint64_t i = 0; i < rounds; ++i) {
    const std::string bytes = drawer.Draw();
    // In memory of exactly its size, so that a sanitizer sees the first byte too many.
    const std::vector<char> exact(bytes.begin(), bytes.end());
    const auto header = ParseSafetensorsHeader({exact.data(), exact.size()}, exact.size());
    if (header.ok()) {
      ++accepted;
      ExpectConsistent(*header, bytes);
    } else {
      EXPECT_EQ(header.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(header.status().message()),
                  AnyOf(HasSubstr("tensor '"), HasSubstr("header"), HasSubstr("bytes")));
    }
    if (::testing::Test::HasFailure()) FAIL() << "round " << i << ": " << bytes;
  }
  EXPECT_GT(accepted, rounds / 20);
  EXPECT_LT(accepted, rounds * 9 / 10);
}

TEST(HostileSafetensorsTest, FilesAreOpenedReadAndNamed) {
  const ScratchFolder folder;
  const std::string path = folder / "x.safetensors";
  const uint64_t rounds = Rounds(1'000) / 20 + 50;
  FileDrawer drawer(2);
  for (uint64_t i = 0; i < rounds; ++i) {
    const std::string bytes = drawer.Draw();
    WriteBytes(path, bytes);
    const auto tensors = LoadTensors(path);
    if (!tensors.ok()) {
      ASSERT_THAT(std::string(tensors.status().message()), StartsWith(path)) << bytes;
    }
  }
}

class HostileFolderTest : public ::testing::Test {
 protected:
  HostileFolderTest() { Write("config.json", R"({"model_type": "llama"})"); }

  void Write(const std::string& name, const std::string& text) { WriteBytes(folder_ / name, text); }
  void ExpectRefused(const std::string& file, const std::string& message) {
    const auto opened = HfFolder::Open(folder_.path());
    ASSERT_FALSE(opened.ok());
    EXPECT_THAT(std::string(opened.status().message()), StartsWith(folder_ / file));
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr(message));
  }

  const ScratchFolder folder_;
};

TEST_F(HostileFolderTest, AnIndexNamesFilesOfItsFolderOnly) {
  const std::string outside = ::testing::TempDir() + "/hostile_outside.safetensors";
  auto writer = SafetensorsWriter::Create(outside, {{"a", wire::DType::kUInt8, {1}}});
  ASSERT_TRUE((*writer)->Append("x").ok() && (*writer)->Finish().ok());
  const std::string files[] = {outside,
                               "../hostile_outside.safetensors",
                               "./../hostile_outside.safetensors",
                               "sub/../../hostile_outside.safetensors",
                               "",
                               ".",
                               "..",
                               "/",
                               R"(a\u0000b)",
                               R"(..\/hostile_outside.safetensors)"};
  for (const std::string& file : files) {
    SCOPED_TRACE(file);
    Write("model.safetensors.index.json", R"({"weight_map": {"a": ")" + file + R"("}})");
    ExpectRefused("model.safetensors.index.json", "tensor 'a': its file must be a name");
  }
  std::filesystem::remove(outside);
  for (const std::string map :
       {"[]", "1", "null", R"("x")", "{}", R"({"a": ["x"]})", R"({"a": {}})"}) {
    SCOPED_TRACE(map);
    Write("model.safetensors.index.json", R"({"weight_map": )" + map + "}");
    ExpectRefused("model.safetensors.index.json", map.size() > 4 ? "tensor 'a'" : "weight_map");
  }
  Write("model.safetensors.index.json",
        R"({"weight_map": {"a": ")" + std::string(5000, 'x') + R"("}})");
  EXPECT_FALSE(HfFolder::Open(folder_.path()).ok());
}

TEST_F(HostileFolderTest, NestingIsBoundedInTimeAndMemory) {
  const std::string deep(30'000'000, '[');
  Write("config.json", R"({"text": "\"[[[[", "a": )" + deep + "}");
  ExpectRefused("config.json", "nested more than 100 levels");
  // Brackets in strings are text.
  Write("config.json", R"({"a": ")" + deep.substr(0, 1000) + R"(\\", "b": [[[[]]]]})");
  Write("model.safetensors.index.json", R"({"weight_map": )" + deep + "}");
  ExpectRefused("model.safetensors.index.json", "nested more than 100 levels");
}

TEST_F(HostileFolderTest, PipesAndFoldersInPlaceOfFilesAreNotWaitedFor) {
  for (const char* name : {"model.safetensors", "generation_config.json", "config.json"}) {
    SCOPED_TRACE(name);
    std::filesystem::remove(folder_ / name);
    ASSERT_EQ(mkfifo((folder_ / name).c_str(), 0600), 0);
    ExpectRefused(name, "not a regular file");
    std::filesystem::remove(folder_ / name);
    std::filesystem::create_directory(folder_ / name);
    ExpectRefused(name, "not a regular file");
    std::filesystem::remove(folder_ / name);
    if (std::string(name) == "generation_config.json") Write(name, "{}");
  }
}

TEST_F(HostileFolderTest, DamagedIndexesGiveStatuses) {
  auto writer = SafetensorsWriter::Create(
      folder_ / "s", {{"a", wire::DType::kUInt8, {1}}, {"b", wire::DType::kUInt8, {1}}});
  ASSERT_TRUE((*writer)->Append("x").ok() && (*writer)->Append("y").ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  const std::string index =
      R"({"metadata": {"total_size": 2}, "weight_map": {"a": "s", "b": "s"}})";
  PhiloxStream random(3, 3);
  const uint64_t rounds = Rounds(1'000) / 20 + 100;
  int accepted = 0;
  for (uint64_t i = 0; i < rounds; ++i) {
    std::string damaged = index;
    for (uint64_t j = random.Below(3); j < 3; ++j) {
      const size_t at = random.Below(damaged.size());
      if (random.Below(2) == 0) {
        damaged[at] = static_cast<char>(random.Below(256));
      } else {
        damaged.erase(at, random.Below(10));
      }
      if (damaged.empty()) damaged = "{";
    }
    Write("model.safetensors.index.json", damaged);
    const auto opened = HfFolder::Open(folder_.path());
    if (opened.ok()) {
      ++accepted;
      EXPECT_EQ(opened->tensors().size(), 2u) << damaged;
    } else {
      EXPECT_THAT(std::string(opened.status().message()), StartsWith(folder_.path())) << damaged;
    }
  }
  EXPECT_GT(accepted, 0);
}

}  // namespace
}  // namespace rollcall::checkpoint
