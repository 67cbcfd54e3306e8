#include "common/rpc/status_conversion.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/cord.h"
#include "common/rpc/limits.h"

namespace rollcall::rpc {
namespace {

using testing::EndsWith;

TEST(StatusConversionTest, EveryCodeComesBack) {
  for (int code = 0; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), code == 0 ? "" : "message");
    EXPECT_EQ(static_cast<int>(ToGrpc(status).error_code()), code);
    EXPECT_EQ(FromGrpc(ToGrpc(status)), status);
  }
}

TEST(StatusConversionTest, CodesOutsideTheStandardBecomeUnknown) {
  const absl::Status status = FromGrpc(grpc::Status(static_cast<grpc::StatusCode>(99), "odd"));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnknown);
  EXPECT_EQ(status.message(), "odd");
}

TEST(StatusConversionTest, PayloadsTravel) {
  absl::Status status = absl::ResourceExhaustedError("queue full");
  status.SetPayload("type.googleapis.com/a.A", absl::Cord(std::string("\0\x01\xff", 3)));
  status.SetPayload("type.googleapis.com/b.B", absl::Cord("two"));
  const absl::Status back = FromGrpc(ToGrpc(status));
  EXPECT_EQ(back, status);
  EXPECT_EQ(*back.GetPayload("type.googleapis.com/a.A"), std::string("\0\x01\xff", 3));
}

// google.rpc.Status{code: 5, message: "m", details: [Any{type_url: "t/x", value: "v"}]}, as any
// other gRPC implementation writes it.
TEST(StatusConversionTest, ReadsTheStandardDetails) {
  const std::string details = "\x08\x05\x12\x01m\x1a\x08\x0a\x03t/x\x12\x01v";
  const absl::Status status = FromGrpc(grpc::Status(grpc::StatusCode::NOT_FOUND, "m", details));
  EXPECT_EQ(*status.GetPayload("t/x"), "v");
  absl::Status same = absl::NotFoundError("m");
  same.SetPayload("t/x", absl::Cord("v"));
  EXPECT_EQ(FromGrpc(ToGrpc(same)), status);
}

TEST(StatusConversionTest, ForeignDetailsAreIgnored) {
  const absl::Status status =
      FromGrpc(grpc::Status(grpc::StatusCode::INTERNAL, "m", "\xff\xff not a message"));
  EXPECT_EQ(status, absl::InternalError("m"));
}

TEST(StatusConversionTest, LongMessagesAreCutBetweenCharacters) {
  const std::string fits(kMaxStatusBytes, 'x');
  EXPECT_EQ(ToGrpc(absl::InternalError(fits)).error_message(), fits);
  EXPECT_THAT(ToGrpc(absl::InternalError(fits + "x")).error_message(), EndsWith("x [cut]"));
  EXPECT_LE(ToGrpc(absl::InternalError(fits + "x")).error_message().size(), kMaxStatusBytes);
  std::string umlauts;
  for (int i = 0; i < 2000; ++i) umlauts += "ü";
  const std::string cut = ToGrpc(absl::InternalError("a" + umlauts)).error_message();
  EXPECT_THAT(cut, EndsWith("ü [cut]"));
  EXPECT_LE(cut.size() * 3, kMaxStatusBytes + 3 * 6);
}

TEST(StatusConversionTest, OversizedDetailsAreLeftOut) {
  absl::Status status = absl::InternalError("m");
  status.SetPayload("t/x", absl::Cord(std::string(4000, 'v')));
  EXPECT_EQ(FromGrpc(ToGrpc(status)), absl::InternalError("m"));
}

}  // namespace
}  // namespace rollcall::rpc
