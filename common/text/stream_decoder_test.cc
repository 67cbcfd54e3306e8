#include "common/text/stream_decoder.h"

#include <gtest/gtest.h>

#include <vector>

#include "common/text/text_test_data.h"
#include "common/text/tokenizer.h"

namespace rollcall::text {
namespace {

constexpr uint32_t kBos = 0, kEos = 1, kA = 2, kB = 3, kByteE2 = 7, kByte82 = 8, kByteAC = 9,
                   kByteFF = 10;

std::vector<std::string> Steps(StreamDecoder& stream, const std::vector<uint32_t>& ids) {
  std::vector<std::string> texts;
  for (const uint32_t id : ids) {
    const absl::StatusOr<std::string> text = stream.Step(id);
    EXPECT_TRUE(text.ok()) << text.status();
    texts.push_back(text.value_or("(error)"));
  }
  return texts;
}

class StreamDecoderTest : public ::testing::Test {
 protected:
  const std::shared_ptr<const Tokenizer> tokenizer_ = Tokenizer::FromJson(kTinyTokenizer).value();
};

TEST_F(StreamDecoderTest, HoldsAnUnfinishedCharacter) {
  StreamDecoder stream = tokenizer_->NewStream(/*skip_special=*/true);
  EXPECT_EQ(Steps(stream, {kBos, kA, kByteE2, kByte82, kByteAC, kB}),
            (std::vector<std::string>{"", "a", "", "", "€", "b"}));
  EXPECT_EQ(stream.Flush().value(), "");
}

TEST_F(StreamDecoderTest, FlushGivesWhatNeverBecameACharacterAndStartsAnew) {
  StreamDecoder stream = tokenizer_->NewStream(true);
  EXPECT_EQ(Steps(stream, {kA, kByteE2, kByte82}), (std::vector<std::string>{"a", "", ""}));
  EXPECT_EQ(stream.Flush().value(), "\uFFFD\uFFFD");
  EXPECT_EQ(stream.Flush().value(), "");
  EXPECT_EQ(Steps(stream, {kByteE2, kByte82, kByteAC}), (std::vector<std::string>{"", "", "€"}));
}

TEST_F(StreamDecoderTest, SpecialTokensAreShownOnRequest) {
  StreamDecoder stream = tokenizer_->NewStream(/*skip_special=*/false);
  EXPECT_EQ(Steps(stream, {kBos, kA, kEos}), (std::vector<std::string>{"<s>", "a", "</s>"}));
}

// The whole run E2 82 AC FF is invalid, though its first three bytes were printed as a character.
TEST_F(StreamDecoderTest, GoesOnWhereARunOfBytesTurnsInvalidAfterItsBeginningWasPrinted) {
  StreamDecoder stream = tokenizer_->NewStream(true);
  EXPECT_EQ(Steps(stream, {kByteE2, kByte82, kByteAC, kByteFF, kA, kB}),
            (std::vector<std::string>{"", "", "€", "", "\uFFFDa", "b"}));
}

TEST_F(StreamDecoderTest, EndlessGarbageIsPrintedInBlocks) {
  StreamDecoder stream = tokenizer_->NewStream(true);
  size_t printed = 0;
  for (int i = 0; i < 1000; ++i) printed += stream.Step(kByteFF).value().size();
  printed += stream.Flush().value().size();
  EXPECT_EQ(printed, 3000u);  // U+FFFD is three bytes
}

TEST_F(StreamDecoderTest, UnknownIdsPrintNothing) {
  StreamDecoder stream = tokenizer_->NewStream(true);
  EXPECT_EQ(Steps(stream, {kA, 11, 4'000'000'000u, kB}),
            (std::vector<std::string>{"a", "", "", "b"}));
}

TEST_F(StreamDecoderTest, OutlivesItsTokenizer) {
  std::shared_ptr<const Tokenizer> tokenizer = Tokenizer::FromJson(kTinyTokenizer).value();
  StreamDecoder stream = tokenizer->NewStream(true);
  tokenizer.reset();
  EXPECT_EQ(stream.Step(kA).value(), "a");
}

}  // namespace
}  // namespace rollcall::text
