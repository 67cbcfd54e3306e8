#include "common/wire/sha256.h"

#include <gtest/gtest.h>

#include <string>

namespace rollcall::wire {
namespace {

// Examples of FIPS 180-4's companion (NIST CSRC, SHA256.pdf) and the empty message.
TEST(Sha256Test, MatchesPublishedDigests) {
  EXPECT_EQ(ToHex(Sha256Of("")),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(ToHex(Sha256Of("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(ToHex(Sha256Of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

TEST(Sha256Test, PiecesEqualTheWholeAndFinishStartsOver) {
  const std::string text = "the quick brown fox jumps over the lazy dog, many times over";
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    Sha256 sha256;
    sha256.Update(text.substr(0, cut));
    sha256.Update(text.substr(cut));
    EXPECT_EQ(sha256.Finish(), Sha256Of(text));
    sha256.Update("abc");
    EXPECT_EQ(sha256.Finish(), Sha256Of("abc"));
  }
}

TEST(Sha256Test, BytesRoundTripAndNeedExactly32) {
  const Sha256Digest digest = Sha256Of("x");
  EXPECT_EQ(DigestFromBytes(ToBytes(digest)), digest);
  EXPECT_EQ(DigestFromBytes(std::string(31, 'a')), std::nullopt);
  EXPECT_EQ(DigestFromBytes(std::string(33, 'a')), std::nullopt);
}

}  // namespace
}  // namespace rollcall::wire
