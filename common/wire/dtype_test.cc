#include "common/wire/dtype.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace rollcall::wire {
namespace {

TEST(DTypeTest, CodesSizesAndNamesAreTheContract) {
  EXPECT_EQ(static_cast<int>(DType::kFloat32), 1);
  EXPECT_EQ(static_cast<int>(DType::kBFloat16), 2);
  EXPECT_EQ(static_cast<int>(DType::kFloat16), 3);
  EXPECT_EQ(static_cast<int>(DType::kInt64), 4);
  EXPECT_EQ(static_cast<int>(DType::kInt32), 5);
  EXPECT_EQ(static_cast<int>(DType::kUInt8), 6);
  EXPECT_EQ(static_cast<int>(DType::kFloat64), 7);
  EXPECT_EQ(static_cast<int>(DType::kBool), 8);
  EXPECT_EQ(SizeOf(DType::kBFloat16), 2u);
  EXPECT_EQ(SizeOf(DType::kInt64), 8u);
  EXPECT_EQ(SizeOf(DType::kUInt8), 1u);
  EXPECT_EQ(Name(DType::kBFloat16), "bfloat16");
  EXPECT_EQ(SafetensorsName(DType::kBFloat16), "BF16");
}

TEST(DTypeTest, EveryTypeIsFoundByCodeAndNames) {
  for (int code = 1; code <= 8; ++code) {
    const DType dtype = DTypeFromCode(code).value();
    EXPECT_EQ(static_cast<int>(dtype), code);
    EXPECT_EQ(DTypeFromName(Name(dtype)), dtype);
    EXPECT_EQ(DTypeFromSafetensorsName(SafetensorsName(dtype)), dtype);
  }
  EXPECT_EQ(DTypeFromCode(0), std::nullopt);
  EXPECT_EQ(DTypeFromCode(9), std::nullopt);
  EXPECT_EQ(DTypeFromCode(-1), std::nullopt);
  EXPECT_EQ(DTypeFromName("F32"), std::nullopt);
  EXPECT_EQ(DTypeFromSafetensorsName("float32"), std::nullopt);
}

TEST(ByteSizeTest, MultipliesAndRefusesNonsense) {
  EXPECT_EQ(ByteSize(DType::kBFloat16, std::vector<int64_t>{3, 5}).value(), 30);
  EXPECT_EQ(ByteSize(DType::kInt64, {}).value(), 8);
  EXPECT_EQ(ByteSize(DType::kFloat32, std::vector<int64_t>{0, 7}).value(), 0);
  EXPECT_EQ(ByteSize(DType::kFloat32, std::vector<int64_t>{2, -1}).status().message(),
            "shape [2, -1]: negative dimension");
  const int64_t huge = std::numeric_limits<int64_t>::max();
  EXPECT_FALSE(ByteSize(DType::kFloat32, std::vector<int64_t>{huge}).ok());
  // A zero after the overflow must not hide it.
  EXPECT_FALSE(ByteSize(DType::kFloat32, std::vector<int64_t>{huge, 0}).ok());
}

}  // namespace
}  // namespace rollcall::wire
