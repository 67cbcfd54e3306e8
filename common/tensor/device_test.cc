#include "common/tensor/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace rollcall::tensor {
namespace {

using ::testing::HasSubstr;

TEST(OpenDeviceTest, CpuIsAlwaysThere) {
  const absl::StatusOr<c10::Device> device = OpenDevice("cpu");
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_TRUE(device->is_cpu());
}

TEST(OpenDeviceTest, NamesThatAreNoDeviceAreRefused) {
  for (const char* name :
       {"", "gpu", "cuda:", "cuda:-1", "cuda:1x", "cuda:4000000000", "cuda:1000"}) {
    const absl::StatusOr<c10::Device> device = OpenDevice(name);
    ASSERT_FALSE(device.ok()) << name;
    EXPECT_EQ(device.status().code(), absl::StatusCode::kInvalidArgument) << device.status();
    EXPECT_THAT(std::string(device.status().message()), HasSubstr(std::string("'") + name + "'"));
  }
}

// With a GPU the device opens; without one the refusal says what to do, and the process lives on.
TEST(OpenDeviceTest, CudaOpensOrSaysWhyNot) {
  const absl::StatusOr<c10::Device> device = OpenDevice("cuda");
  if (device.ok()) {
    EXPECT_TRUE(device->is_cuda());
    EXPECT_EQ(device->index(), 0);
    const absl::StatusOr<c10::Device> beyond = OpenDevice("cuda:100");
    EXPECT_EQ(beyond.status().code(), absl::StatusCode::kFailedPrecondition);
    return;
  }
  EXPECT_EQ(device.status().code(), absl::StatusCode::kFailedPrecondition) << device.status();
  EXPECT_THAT(std::string(device.status().message()), HasSubstr("device 'cuda'"));
  EXPECT_THAT(std::string(device.status().message()), HasSubstr("cpu"));
  EXPECT_TRUE(OpenDevice("cpu").ok());
}

}  // namespace
}  // namespace rollcall::tensor
