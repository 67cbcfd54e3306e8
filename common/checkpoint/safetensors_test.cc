#include "common/checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "common/base/file.h"
#include "common/checkpoint/scratch_folder.h"

namespace rollcall::checkpoint {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

std::string FileBytes(const std::string& json, size_t data_bytes) {
  std::string bytes(8, '\0');
  const uint64_t length = json.size();
  std::memcpy(bytes.data(), &length, 8);
  return bytes + json + std::string(data_bytes, 'd');
}

absl::Status StatusOfHeader(const std::string& json, size_t data_bytes) {
  const std::string bytes = FileBytes(json, data_bytes);
  return ParseSafetensorsHeader(bytes, bytes.size()).status();
}

std::vector<TensorEntry> MixedEntries() {
  return {{"half", wire::DType::kBFloat16, {3}},   {"b", wire::DType::kFloat32, {2, 1}},
          {"none", wire::DType::kFloat32, {0, 5}}, {"a", wire::DType::kFloat32, {}},
          {"wide", wire::DType::kInt64, {1}},      {"flag", wire::DType::kUInt8, {1}}};
}

std::string WriteMixed(const std::string& path) {
  auto writer = SafetensorsWriter::Create(path, MixedEntries(), {{"format", "pt"}, {"step", "7"}});
  EXPECT_TRUE(writer.ok()) << writer.status();
  char fill = '1';
  for (const TensorEntry& entry : (*writer)->entries()) {
    EXPECT_TRUE(
        (*writer)->Append(std::string(*wire::ByteSize(entry.dtype, entry.shape), fill++)).ok());
  }
  EXPECT_TRUE((*writer)->Finish().ok());
  return ReadFile(path).value();
}

TEST(SafetensorsTest, WhatIsWrittenIsRead) {
  const ScratchFolder folder;
  const std::string path = folder / "x.safetensors";
  WriteMixed(path);
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT((*file)->metadata(), ElementsAre(Pair("format", "pt"), Pair("step", "7")));
  std::vector<std::string> names;
  for (const TensorView& tensor : (*file)->tensors()) names.push_back(tensor.name);
  EXPECT_THAT(names, ::testing::UnorderedElementsAre("wide", "b", "none", "a", "half", "flag"));
  const TensorView* const b = (*file)->Find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->dtype, wire::DType::kFloat32);
  EXPECT_THAT(b->shape, ElementsAre(2, 1));
  EXPECT_EQ(b->bytes, "22222222");
  EXPECT_EQ((*file)->Find("a")->shape.size(), 0u);
  EXPECT_EQ((*file)->Find("none")->bytes.size(), 0u);
  EXPECT_EQ((*file)->Find("half")->bytes, "555555");
  EXPECT_EQ((*file)->Find("c"), nullptr);
}

TEST(SafetensorsTest, FilesAreDeterministicAndEveryTensorIsAligned) {
  const ScratchFolder folder;
  const std::string bytes = WriteMixed(folder / "x");
  EXPECT_EQ(bytes, WriteMixed(folder / "y"));
  const auto header = ParseSafetensorsHeader(bytes, bytes.size());
  ASSERT_TRUE(header.ok()) << header.status();
  for (const TensorRecord& tensor : header->tensors) {
    EXPECT_EQ((header->data_offset + tensor.begin) % wire::SizeOf(tensor.dtype), 0u) << tensor.name;
  }
  EXPECT_EQ(header->data_offset % 8, 0u);
}

TEST(SafetensorsTest, EveryTruncationIsRefused) {
  const ScratchFolder folder;
  const std::string bytes = WriteMixed(folder / "x");
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_EQ(ParseSafetensorsHeader(bytes.substr(0, length), length).status().code(),
              absl::StatusCode::kInvalidArgument)
        << length;
  }
  EXPECT_FALSE(ParseSafetensorsHeader(bytes + "x", bytes.size() + 1).ok());
  // The same through the file: what cannot be mapped or parsed is a status with the path.
  for (const size_t length : {size_t{0}, size_t{7}, size_t{8}, bytes.size() - 1}) {
    ASSERT_TRUE(WriteFileAtomically(folder / "cut", bytes.substr(0, length)).ok());
    const auto file = SafetensorsFile::Open(folder / "cut");
    ASSERT_FALSE(file.ok()) << length;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(folder / "cut"));
  }
}

// Some flips give another valid header (a letter of a name, say); none may crash or read outside
// the file.
TEST(SafetensorsTest, EveryBitFlipOfTheHeaderGivesAStatusOrAConsistentHeader) {
  const ScratchFolder folder;
  const std::string good = WriteMixed(folder / "x");
  const size_t header_end = ParseSafetensorsHeader(good, good.size())->data_offset;
  int refused = 0;
  for (size_t bit = 0; bit < header_end * 8; ++bit) {
    std::string bytes = good;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    const auto header = ParseSafetensorsHeader(bytes, bytes.size());
    if (!header.ok()) {
      ++refused;
      EXPECT_FALSE(header.status().message().empty());
      continue;
    }
    uint64_t position = 0;
    for (const TensorRecord& tensor : header->tensors) {
      EXPECT_EQ(tensor.begin, position);
      EXPECT_EQ(*wire::ByteSize(tensor.dtype, tensor.shape),
                static_cast<int64_t>(tensor.end - tensor.begin));
      position = tensor.end;
    }
    EXPECT_EQ(header->data_offset + position, bytes.size());
  }
  EXPECT_GT(refused, static_cast<int>(header_end * 8 / 2));
}

TEST(SafetensorsTest, HeadersThatLieAreRefusedByName) {
  const auto expect = [](const std::string& json, size_t data, const std::string& message) {
    const absl::Status status = StatusOfHeader(json, data);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << json;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message)) << json;
  };
  const auto tensor = [](const std::string& name, const std::string& dtype,
                         const std::string& shape, const std::string& offsets) {
    return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
           ",\"data_offsets\":" + offsets + "}";
  };
  const std::string a = tensor("a", "F32", "[1]", "[0,4]");
  EXPECT_TRUE(StatusOfHeader("{" + a + "}", 4).ok());
  EXPECT_TRUE(StatusOfHeader("{" + a + "}   ", 4).ok());
  EXPECT_TRUE(StatusOfHeader("{}", 0).ok());

  expect("{" + a + "}", 5, "describes 4 data bytes, the file holds 5");
  expect("{" + a + "}", 3, "'a': data_offsets [0, 4) reach beyond the file's 3 data bytes");
  expect("{" + a + "," + a + "}", 4, "'a': the name occurs twice");
  expect("{" + a + "," + tensor("b", "F32", "[1]", "[2,6]") + "}", 6,
         "'b': data_offsets [2, 6) overlap");
  expect("{" + a + "," + tensor("b", "F32", "[1]", "[5,9]") + "}", 9,
         "'b': data_offsets [5, 9) leave a hole");
  expect("{" + tensor("a", "F32", "[1]", "[4,0]") + "}", 4, "end before they begin");
  expect("{" + tensor("a", "F32", "[2]", "[0,4]") + "}", 4, "shape [2] takes 8 bytes");
  expect("{" + tensor("a", "F31", "[1]", "[0,4]") + "}", 4, "unknown dtype 'F31'");
  expect("{" + tensor("a", "F32", "[-1]", "[0,4]") + "}", 4, "unexpected -1");
  expect("{" + tensor("a", "F32", "[1.0]", "[0,4]") + "}", 4, "unexpected 1.0");
  expect("{" + tensor("a", "F32", "[4294967296,4294967296,4294967296]", "[0,4]") + "}", 4,
         "too many bytes");
  expect("{" + tensor("a", "F32", "[4294967296,1073741824]", "[0,0]") + "}", 0, "too many bytes");
  expect("{" + tensor("a", "F32", "[18446744073709551615]", "[0,4]") + "}", 4, "too large");
  expect("{" + tensor("a", "F32", "[99999999999999999999]", "[0,4]") + "}", 4,
         "unexpected 99999999999999999999");
  expect("{" + tensor("a", "F32", "[[1]]", "[0,4]") + "}", 4, "unexpected an array");
  expect("{" + tensor("a", "F32", "[1]", "[0]") + "}", 4, "two numbers");
  expect("{" + tensor("a", "F32", "[1]", "[0,4,8]") + "}", 4, "more than two numbers");
  expect("{" + tensor("a", "F32", "4", "[0,4]") + "}", 4, "unexpected 4 as shape");
  expect("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "data_offsets is missing");
  expect("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
         "dtype occurs twice");
  expect("{\"a\":{\"kind\":\"F32\"}}", 0, "unknown field 'kind'");
  expect("{\"a\":null}", 0, "unexpected null");
  expect("{\"a\":[1]}", 0, "unexpected an array");
  expect("{\"__metadata__\":{\"x\":1}}", 0, "unexpected 1");
  expect("[1]", 0, "does not begin with '{'");
  expect("{" + a + "}}", 4, "not JSON");
  expect("{" + a + "} x", 4, "not JSON");
  expect("{\"\xff\":1}", 0, "not JSON");
  expect("", 0, "does not begin with '{'");
}

TEST(SafetensorsTest, HeaderLengthIsBounded) {
  std::string bytes = FileBytes("{}", 0);
  bytes[7] = '\x7f';
  EXPECT_THAT(std::string(ParseSafetensorsHeader(bytes, bytes.size()).status().message()),
              HasSubstr("above the limit of 100000000"));
  bytes = FileBytes("{}", 0);
  bytes[0] = 3;
  EXPECT_THAT(std::string(ParseSafetensorsHeader(bytes, bytes.size()).status().message()),
              HasSubstr("reaches beyond the file's 10 bytes"));
}

// Depth is refused at the first level that the format does not have, not when memory runs out.
TEST(SafetensorsTest, DeeplyNestedHeaderIsRefusedEarly) {
  EXPECT_EQ(StatusOfHeader("{\"a\":" + std::string(50'000'000, '['), 0).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(SafetensorsTest, FilesThatAreNotThere) {
  const ScratchFolder folder;
  EXPECT_EQ(SafetensorsFile::Open(folder / "absent").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(SafetensorsFile::Open(folder.path()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(SafetensorsWriterTest, MisuseIsAStatusAndLeavesNothing) {
  const ScratchFolder folder;
  const std::string path = folder / "x";
  const TensorEntry a{"a", wire::DType::kFloat32, {1}};
  EXPECT_FALSE(SafetensorsWriter::Create(path, {a, a}).ok());
  EXPECT_FALSE(SafetensorsWriter::Create(path, {{"a", wire::DType::kFloat32, {-1}}}).ok());
  EXPECT_FALSE(
      SafetensorsWriter::Create(path, {{"__metadata__", wire::DType::kFloat32, {1}}}).ok());
  EXPECT_EQ(SafetensorsWriter::Create(folder / "absent/x", {a}).status().code(),
            absl::StatusCode::kNotFound);
  {
    auto writer = SafetensorsWriter::Create(path, {a});
    ASSERT_TRUE(writer.ok());
    EXPECT_EQ((*writer)->Append("12345").code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ((*writer)->Finish().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_TRUE((*writer)->Append("1234").ok());
    EXPECT_EQ((*writer)->Append("1234").code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_FALSE(std::filesystem::exists(path)) << "the file must not appear before Finish";
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(SafetensorsWriterTest, NamesOfAnyCharactersSurvive) {
  const ScratchFolder folder;
  const std::string name = "q\"uo\\te\n\xc3\xa9";
  auto writer = SafetensorsWriter::Create(folder / "x", {{name, wire::DType::kUInt8, {1}}}, {});
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->Append("z").ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  const auto file = SafetensorsFile::Open(folder / "x");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_NE((*file)->Find(name), nullptr);
  EXPECT_TRUE((*file)->metadata().empty());
}

}  // namespace
}  // namespace rollcall::checkpoint
