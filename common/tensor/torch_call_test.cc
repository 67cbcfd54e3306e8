#include "common/tensor/torch_call.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <new>
#include <stdexcept>
#include <string>

namespace rollcall::tensor {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(TorchCallTest, ReturnsWhatTheFunctionReturns) {
  EXPECT_EQ(TorchCall([] { return 7; }).value(), 7);
  EXPECT_TRUE(TorchCall([] {}).ok());
  EXPECT_EQ(TorchCall([] { return absl::NotFoundError("x"); }).code(), absl::StatusCode::kNotFound);
  const absl::StatusOr<int> nested = TorchCall([]() -> absl::StatusOr<int> { return 3; });
  EXPECT_EQ(nested.value(), 3);
}

TEST(TorchCallTest, ShapeErrorBecomesAStatusOfOneLine) {
  const absl::StatusOr<at::Tensor> product = TorchCall([] {
    return at::matmul(at::zeros({2, 3}), at::zeros({4, 5}));
  });
  ASSERT_FALSE(product.ok());
  EXPECT_EQ(product.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(product.status().message()), HasSubstr("2x3 and 4x5"));
  EXPECT_THAT(std::string(product.status().message()), Not(HasSubstr("\n")));
}

TEST(TorchCallTest, KindsOfExceptionsChooseTheCode) {
  EXPECT_EQ(TorchCall([] { TORCH_CHECK_INDEX(false, "index"); }).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(TorchCall([] { TORCH_CHECK_VALUE(false, "value"); }).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(TorchCall([] { TORCH_CHECK_TYPE(false, "type"); }).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(TorchCall([] { TORCH_CHECK_NOT_IMPLEMENTED(false, "kernel"); }).code(),
            absl::StatusCode::kUnimplemented);
  EXPECT_EQ(TorchCall([] { TORCH_CHECK_WITH(OutOfMemoryError, false, "device"); }).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(TorchCall([] { throw std::bad_alloc(); }).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(TorchCall([] { throw std::runtime_error("x"); }).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(TorchCall([] { throw 5; }).code(), absl::StatusCode::kInternal);
}

TEST(TorchCallTest, RealHostAllocationFailureIsResourceExhausted) {
  constexpr int64_t kExbibyte = int64_t{1} << 60;
  const absl::StatusOr<at::Tensor> huge =
      TorchCall([] { return at::zeros({kExbibyte}, at::TensorOptions().dtype(at::kByte)); });
  ASSERT_FALSE(huge.ok());
  EXPECT_EQ(huge.status().code(), absl::StatusCode::kResourceExhausted) << huge.status();
}

}  // namespace
}  // namespace rollcall::tensor
