#include "common/tensor/device.h"

#include <ATen/Context.h>
#include <dlfcn.h>

#include <charconv>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/tensor/torch_call.h"

namespace rollcall::tensor {
namespace {

// libtorch_cuda.so of the same wheel as the libtorch_cpu.so in this process: a library of another
// version found through the search path would not fit.
std::string CudaLibraryPath() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&at::globalContext), &info) != 0 &&
      info.dli_fname != nullptr) {
    const std::filesystem::path beside =
        std::filesystem::path(info.dli_fname).parent_path() / "libtorch_cuda.so";
    std::error_code ignored;
    if (std::filesystem::exists(beside, ignored)) return beside.string();
  }
  return "libtorch_cuda.so";
}

// RTLD_GLOBAL: plug-ins with our kernels are loaded later and resolve against it. Never closed.
absl::Status OpenCudaLibrary() {
  static const absl::Status opened = [] {
    if (dlopen(CudaLibraryPath().c_str(), RTLD_NOW | RTLD_GLOBAL) != nullptr) {
      return absl::OkStatus();
    }
    const char* reason = dlerror();
    return absl::FailedPreconditionError(absl::StrCat(
        "LibTorch's CUDA library cannot be opened (", reason ? reason : "no reason given",
        "); install the CUDA wheels of torch or set the device to cpu"));
  }();
  return opened;
}

absl::StatusOr<c10::Device> OpenCuda(std::string_view name, int index) {
  ROLLCALL_RETURN_IF_ERROR(
      Annotate(OpenCudaLibrary(), absl::StrCat("device '", std::string(name), "'")));
  return TorchCall([&]() -> absl::StatusOr<c10::Device> {
    if (!at::hasCUDA()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "device '", std::string(name),
          "': LibTorch was used before its CUDA library was opened; open the device first"));
    }
    const size_t count = at::getNumGPUs();
    if (count == 0) {
      return absl::FailedPreconditionError(absl::StrCat(
          "device '", std::string(name),
          "': no usable GPU on this machine (no NVIDIA driver, or CUDA_VISIBLE_DEVICES hides "
          "them all); set the device to cpu"));
    }
    if (static_cast<size_t>(index) >= count) {
      return absl::FailedPreconditionError(absl::StrCat("device '", std::string(name),
                                                        "': this machine has ", count,
                                                        " GPU(s), numbered from 0"));
    }
    return c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index));
  });
}

std::optional<int> ParseIndex(std::string_view digits) {
  int index = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
  if (error != std::errc() || end != digits.data() + digits.size() || digits.empty() || index < 0 ||
      index > std::numeric_limits<c10::DeviceIndex>::max()) {
    return std::nullopt;
  }
  return index;
}

}  // namespace

absl::StatusOr<c10::Device> OpenDevice(std::string_view name) {
  if (name == "cpu") return c10::Device(c10::DeviceType::CPU);
  if (name == "cuda") return OpenCuda(name, 0);
  constexpr std::string_view kPrefix = "cuda:";
  if (name.substr(0, kPrefix.size()) == kPrefix) {
    if (const std::optional<int> index = ParseIndex(name.substr(kPrefix.size()))) {
      return OpenCuda(name, *index);
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("device '", std::string(name), "': expected cpu, cuda or cuda:N"));
}

}  // namespace rollcall::tensor
