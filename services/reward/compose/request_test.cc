#include "services/reward/compose/request.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "absl/strings/str_cat.h"

namespace rollcall::reward {
namespace {

using ::testing::HasSubstr;

v1::ScoreRequest Good() {
  v1::ScoreRequest request;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(
      "groups { group_id: 1 samples { index: 0 text: 'a' } samples { index: 1 text: 'b' } } "
      "groups { group_id: 2 samples { index: 0 text: 'c' } } "
      "idempotency_key: 'k' deadline_seconds: 5",
      &request));
  return request;
}

TEST(CheckScoreRequestTest, NamesTheFieldThatIsWrong) {
  EXPECT_EQ(CheckScoreRequest(Good()), absl::OkStatus());
  const struct {
    void (*spoil)(v1::ScoreRequest*);
    const char* error;
  } kCases[] = {
      {[](v1::ScoreRequest* r) { r->clear_groups(); }, "groups: must not be empty"},
      {[](v1::ScoreRequest* r) { r->mutable_groups(1)->clear_samples(); },
       "groups[1].samples: must not be empty"},
      {[](v1::ScoreRequest* r) { r->mutable_groups(1)->set_group_id(1); },
       "groups[1].group_id: 1 is given twice"},
      {[](v1::ScoreRequest* r) { r->mutable_groups(0)->mutable_samples(1)->set_index(0); },
       "groups[0].samples[1].index: 0 is given twice"},
      {[](v1::ScoreRequest* r) { r->clear_idempotency_key(); }, "idempotency_key: expected 1 to"},
      {[](v1::ScoreRequest* r) { r->set_idempotency_key(std::string(129, 'k')); },
       "idempotency_key: expected 1 to 128 bytes, got 129"},
      {[](v1::ScoreRequest* r) { r->set_deadline_seconds(0); }, "deadline_seconds: must be > 0"},
      {[](v1::ScoreRequest* r) {
         r->set_deadline_seconds(std::numeric_limits<double>::quiet_NaN());
       },
       "deadline_seconds: must be > 0"},
      {[](v1::ScoreRequest* r) {
         r->mutable_groups(0)->mutable_samples(1)->set_text(std::string((1 << 20) + 1, 'x'));
       },
       "groups[0].samples[1].text: 1048577 bytes, at most 1048576"},
  };
  for (const auto& c : kCases) {
    v1::ScoreRequest request = Good();
    c.spoil(&request);
    const absl::Status status = CheckScoreRequest(request);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.error));
  }
}

TEST(CheckScoreRequestTest, TooManySamplesAreRefused) {
  v1::ScoreRequest request = Good();
  for (uint32_t i = 2; i < 4095; ++i) request.mutable_groups(0)->add_samples()->set_index(i);
  EXPECT_EQ(CheckScoreRequest(request), absl::OkStatus());
  request.mutable_groups(1)->add_samples()->set_index(1);
  EXPECT_EQ(CheckScoreRequest(request).code(), absl::StatusCode::kResourceExhausted);
}

TEST(FingerprintOfTest, CoversWhatAScoreDependsOnAndNothingElse) {
  v1::ScoreRequest a = Good();
  auto& columns = *a.mutable_groups(0)->mutable_columns()->mutable_fields();
  for (int i = 0; i < 20; ++i) columns[absl::StrCat("c", i)].set_number_value(i);
  v1::ScoreRequest b = Good();
  auto& reversed = *b.mutable_groups(0)->mutable_columns()->mutable_fields();
  for (int i = 19; i >= 0; --i) reversed[absl::StrCat("c", i)].set_number_value(i);
  b.set_idempotency_key("other");
  b.set_deadline_seconds(1);
  EXPECT_EQ(FingerprintOf(a), FingerprintOf(b));
  reversed["c3"].set_number_value(4);
  EXPECT_NE(FingerprintOf(a), FingerprintOf(b));
  b = a;
  b.mutable_groups(1)->mutable_samples(0)->set_text("d");
  EXPECT_NE(FingerprintOf(a), FingerprintOf(b));
}

TEST(KeyOfAttemptTest, TheFirstTryKeepsTheKey) {
  EXPECT_EQ(KeyOfAttempt("k", 1), "k");
  EXPECT_NE(KeyOfAttempt("k", 2), KeyOfAttempt("k", 3));
  EXPECT_NE(KeyOfAttempt("k", 2), KeyOfAttempt("l", 2));
  EXPECT_LE(KeyOfAttempt(std::string(128, 'k'), 2).size(), kMaxKeyBytes);
}

}  // namespace
}  // namespace rollcall::reward
