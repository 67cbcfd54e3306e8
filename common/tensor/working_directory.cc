// libtorch_cpu.so brings oneMKL, whose loader asks for the working directory before main; where that
// directory was removed it ends the process with "Cannot load libtorch_cpu.so", which says nothing.
// This runs before it, in every program that links rollcall::tensor (CMakeLists.txt), and says what
// is wrong.

#include <limits.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>

namespace {

// Runs before anything is initialized, the sanitizers included: system calls alone.
__attribute__((no_sanitize("address", "undefined"))) void RequireWorkingDirectory() {
  char path[PATH_MAX];
  if (getcwd(path, sizeof(path)) != nullptr || errno != ENOENT) return;
  constexpr std::string_view kMessage =
      "rollcall: the working directory does not exist any more; start in one that does\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kMessage.data(), kMessage.size());
  _exit(2);
}

}  // namespace

// Its name is what the linker is told to bring in.
extern "C" {
__attribute__((section(".preinit_array"),
               used)) void (*rollcall_require_working_directory)() = RequireWorkingDirectory;
}
