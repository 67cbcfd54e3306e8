#include "common/base/status.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/cord.h"

namespace rollcall {
namespace {

absl::Status FirstError(absl::Status first, absl::Status second, int* reached) {
  ROLLCALL_RETURN_IF_ERROR(first);
  *reached = 1;
  ROLLCALL_RETURN_IF_ERROR(second);
  *reached = 2;
  return absl::OkStatus();
}

TEST(ReturnIfErrorTest, StopsAtTheFirstError) {
  int reached = 0;
  EXPECT_EQ(FirstError(absl::OkStatus(), absl::AbortedError("b"), &reached),
            absl::AbortedError("b"));
  EXPECT_EQ(reached, 1);
  EXPECT_TRUE(FirstError(absl::OkStatus(), absl::OkStatus(), &reached).ok());
  EXPECT_EQ(reached, 2);
}

absl::StatusOr<int> Unwrap(absl::StatusOr<std::unique_ptr<int>> pointer) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::unique_ptr<int> owned, std::move(pointer));
  int value = 0;
  ROLLCALL_ASSIGN_OR_RETURN(value, absl::StatusOr<int>(*owned + 1));
  return value;
}

TEST(AssignOrReturnTest, MovesTheValueOrReturnsTheError) {
  EXPECT_EQ(Unwrap(std::make_unique<int>(41)).value(), 42);
  EXPECT_EQ(Unwrap(absl::NotFoundError("gone")).status(), absl::NotFoundError("gone"));
}

absl::Status NestedUse() {
  const auto inner = []() -> absl::Status {
    ROLLCALL_RETURN_IF_ERROR(absl::DataLossError("inner"));
    return absl::OkStatus();
  };
  ROLLCALL_RETURN_IF_ERROR(Annotate(inner(), "outer"));
  return absl::OkStatus();
}

TEST(AnnotateTest, KeepsCodeAndPayloads) {
  absl::Status status = absl::UnavailableError("refused");
  status.SetPayload("type.googleapis.com/x", absl::Cord("detail"));
  const absl::Status annotated = Annotate(status, "generator 3");
  EXPECT_EQ(annotated.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(annotated.message(), "generator 3: refused");
  ASSERT_TRUE(annotated.GetPayload("type.googleapis.com/x").has_value());
  EXPECT_EQ(*annotated.GetPayload("type.googleapis.com/x"), "detail");
}

TEST(AnnotateTest, LeavesOkAlone) {
  EXPECT_TRUE(Annotate(absl::OkStatus(), "x").ok());
  EXPECT_EQ(Annotate(absl::StatusOr<int>(3), "x").value(), 3);
  EXPECT_EQ(Annotate(absl::StatusOr<int>(absl::InternalError("e")), "x").status().message(),
            "x: e");
  EXPECT_EQ(NestedUse(), absl::DataLossError("outer: inner"));
}

}  // namespace
}  // namespace rollcall
