#include "common/tensor/torch_call.h"

#include <c10/util/Exception.h>

#include <exception>
#include <new>
#include <string>
#include <string_view>

namespace rollcall::tensor {
namespace {

std::string FirstLine(const char* text) {
  const std::string_view whole(text == nullptr ? "" : text);
  return std::string(whole.substr(0, whole.find('\n')));
}

// The CPU allocator reports exhaustion as a plain c10::Error; only its text tells it from a bug.
bool IsHostAllocationFailure(std::string_view message) {
  return message.find("DefaultCPUAllocator: can't allocate memory") != std::string_view::npos ||
         message.find("DefaultCPUAllocator: not enough memory") != std::string_view::npos;
}

absl::Status StatusOf(const c10::Error& error) {
  const std::string message = FirstLine(error.what_without_backtrace());
  return IsHostAllocationFailure(message) ? absl::ResourceExhaustedError(message)
                                          : absl::InternalError(message);
}

}  // namespace

absl::Status StatusOfCurrentException() {
  try {
    throw;
  } catch (const c10::OutOfMemoryError& error) {
    return absl::ResourceExhaustedError(FirstLine(error.what_without_backtrace()));
  } catch (const c10::IndexError& error) {
    return absl::InvalidArgumentError(FirstLine(error.what_without_backtrace()));
  } catch (const c10::ValueError& error) {
    return absl::InvalidArgumentError(FirstLine(error.what_without_backtrace()));
  } catch (const c10::TypeError& error) {
    return absl::InvalidArgumentError(FirstLine(error.what_without_backtrace()));
  } catch (const c10::NotImplementedError& error) {
    return absl::UnimplementedError(FirstLine(error.what_without_backtrace()));
  } catch (const c10::Error& error) {
    return StatusOf(error);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of host memory");
  } catch (const std::exception& error) {
    return absl::InternalError(FirstLine(error.what()));
  } catch (...) {
    return absl::InternalError("an exception that is no std::exception");
  }
}

}  // namespace rollcall::tensor
