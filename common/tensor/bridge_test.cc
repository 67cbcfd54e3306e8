#include "common/tensor/bridge.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace rollcall::tensor {
namespace {

using ::testing::HasSubstr;

TEST(BridgeTest, EveryDTypeGoesThereAndBack) {
  int count = 0;
  for (int code = 0; code < 256; ++code) {
    if (!wire::DTypeFromCode(code)) continue;
    ++count;
    const wire::DType dtype = *wire::DTypeFromCode(code);
    SCOPED_TRACE(std::string(wire::Name(dtype)));
    EXPECT_EQ(DTypeOf(ScalarTypeOf(dtype)).value(), dtype);
    EXPECT_EQ(c10::elementSize(ScalarTypeOf(dtype)), wire::SizeOf(dtype));
    const at::Tensor original = at::arange(6).remainder(2).reshape({2, 3}).to(ScalarTypeOf(dtype));
    const absl::StatusOr<at::Tensor> copy =
        TensorFromBytes(dtype, std::vector<int64_t>{2, 3}, BytesOf(original));
    ASSERT_TRUE(copy.ok()) << copy.status();
    EXPECT_TRUE(at::equal(original, *copy));
  }
  EXPECT_GE(count, 8);
  EXPECT_EQ(DTypeOf(at::kComplexFloat).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(BridgeTest, MisalignedBytesAreRead) {
  const at::Tensor original = at::arange(5, at::TensorOptions().dtype(at::kDouble));
  const std::string shifted = "x" + std::string(BytesOf(original));
  const auto copy = TensorFromBytes(wire::DType::kFloat64, std::vector<int64_t>{5},
                                    std::string_view(shifted).substr(1));
  ASSERT_TRUE(copy.ok()) << copy.status();
  EXPECT_TRUE(at::equal(original, *copy));
}

TEST(BridgeTest, LengthsAndShapesThatLieAreRefused) {
  const std::string bytes(8, '\0');
  const auto refused = [&](std::vector<int64_t> shape) {
    const auto result = TensorFromBytes(wire::DType::kFloat32, shape, bytes);
    return result.status().code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_FALSE(refused({2}));
  EXPECT_FALSE(refused({1, 2, 1}));
  EXPECT_TRUE(refused({3}));
  EXPECT_TRUE(refused({}));
  EXPECT_TRUE(refused({-2, -1}));
  EXPECT_TRUE(refused({int64_t{1} << 62, 4}));  // 2^64 elements: a product that wraps to 0
  EXPECT_TRUE(refused({int64_t{1} << 33, int64_t{1} << 33}));
  const auto message =
      TensorFromBytes(wire::DType::kFloat32, std::vector<int64_t>{3}, bytes).status();
  EXPECT_THAT(std::string(message.message()), HasSubstr("takes 12 bytes, got 8"));
}

TEST(BridgeTest, FillConvertsAndKeepsTheDestinationsStorage) {
  const at::Tensor source = at::arange(4, at::TensorOptions().dtype(at::kFloat)).div(4);
  at::Tensor parameter =
      at::zeros({2, 2}, at::TensorOptions().dtype(at::kBFloat16)).requires_grad_();
  const void* const storage = parameter.data_ptr();
  ASSERT_TRUE(FillFromBytes(wire::DType::kFloat32, BytesOf(source), parameter).ok());
  EXPECT_EQ(parameter.data_ptr(), storage);
  EXPECT_TRUE(parameter.requires_grad());
  EXPECT_TRUE(at::equal(parameter.detach().to(at::kFloat).reshape({4}), source));
  EXPECT_FALSE(FillFromBytes(wire::DType::kFloat64, BytesOf(source), parameter).ok());
}

TEST(BridgeTest, FillRaisesTheVersionWhateverTheWayOfCopying) {
  const at::Tensor source = at::arange(4, at::TensorOptions().dtype(at::kFloat));
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor destination = at::zeros({4}, at::TensorOptions().dtype(type));
    const int64_t before = destination._version();
    ASSERT_TRUE(FillFromBytes(wire::DType::kFloat32, BytesOf(source), destination).ok());
    EXPECT_GT(destination._version(), before);
  }
}

TEST(BridgeTest, FillReachesTheElementsOfAView) {
  const at::Tensor whole = at::zeros({2, 3}, at::TensorOptions().dtype(at::kFloat));
  const at::Tensor source = at::arange(6, at::TensorOptions().dtype(at::kFloat)).reshape({3, 2});
  ASSERT_TRUE(FillFromBytes(wire::DType::kFloat32, BytesOf(source), whole.t()).ok());
  EXPECT_TRUE(at::equal(whole.t(), source));
}

TEST(BridgeTest, HostContiguousLaysOutATransposedTensor) {
  const at::Tensor transposed = at::arange(6).reshape({2, 3}).t();
  const auto host = HostContiguous(transposed);
  ASSERT_TRUE(host.ok());
  EXPECT_TRUE(host->is_contiguous());
  EXPECT_TRUE(at::equal(*host, transposed));
}

}  // namespace
}  // namespace rollcall::tensor
