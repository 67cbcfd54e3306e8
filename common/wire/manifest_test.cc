#include "common/wire/manifest.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace rollcall::wire {
namespace {

std::vector<TensorEntry> Example() {
  return {{.name = "a.weight",
           .dtype = DType::kBFloat16,
           .shape = {2, 300},
           .sha256 = Sha256Of("first")},
          {.name = "b", .dtype = DType::kFloat32, .shape = {}, .sha256 = Sha256Of("second")}};
}

TEST(ManifestHashTest, IsTheHashOfTheDocumentedBytes) {
  using namespace std::string_literals;
  const std::string bytes = "\x08\0\0\0"s + "a.weight" + "\x02" + "\x02\0\0\0"s +
                            "\x02\0\0\0\0\0\0\0"s + "\x2c\x01\0\0\0\0\0\0"s +
                            ToBytes(Sha256Of("first")) + "\x01\0\0\0"s + "b" + "\x01" +
                            "\0\0\0\0"s + ToBytes(Sha256Of("second"));
  EXPECT_EQ(ManifestHash(Example()), Sha256Of(bytes));
  EXPECT_EQ(ManifestHash({}), Sha256Of(""));
}

TEST(ManifestHashTest, EveryPartCounts) {
  std::vector<std::vector<TensorEntry>> variants(8, Example());
  variants[1][0].name = "a.Weight";
  variants[2][0].dtype = DType::kFloat16;
  variants[3][0].shape = {300, 2};
  variants[4][1].shape = {1};
  variants[5][1].sha256[31] ^= 1;
  std::swap(variants[6][0], variants[6][1]);
  variants[7].pop_back();
  std::set<Sha256Digest> hashes;
  for (const auto& variant : variants) hashes.insert(ManifestHash(variant));
  EXPECT_EQ(hashes.size(), variants.size());
}

TEST(AdaptedManifestHashTest, IsTheHashOfTheDocumentedBytes) {
  using namespace std::string_literals;
  const Sha256Digest base = Sha256Of("base"), adapter = Sha256Of("adapter");
  EXPECT_EQ(
      AdaptedManifestHash(base, adapter, "{}"),
      Sha256Of("rollcall adapter\n" + ToBytes(base) + ToBytes(adapter) + "\x02\0\0\0"s + "{}"));
  const std::set<Sha256Digest> hashes = {
      AdaptedManifestHash(base, adapter, "{}"), AdaptedManifestHash(adapter, base, "{}"),
      AdaptedManifestHash(base, base, "{}"), AdaptedManifestHash(base, adapter, "{ }")};
  EXPECT_EQ(hashes.size(), 4u);
}

}  // namespace
}  // namespace rollcall::wire
