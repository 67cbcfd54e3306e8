#include "services/cli/train/run_layout.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/config/run_config.h"

namespace rollcall::cli {
namespace {

// sun_path holds 108 bytes with its terminator; the longest name in the folder is
// "reward-model-999.sock".
constexpr size_t kLongestSocketFolder = 107 - sizeof("/reward-model-999.sock") + 1;

absl::StatusOr<std::string> PrivateSocketFolder() {
  std::string pattern = "/tmp/rollcall-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr)
    return absl::ErrnoToStatus(errno, "mkdtemp /tmp/rollcall-XXXXXX");
  return pattern;
}

}  // namespace

absl::StatusOr<LockedRun> LockedRun::Open(const v1::RunConfig& config) {
  RunLayout layout;
  layout.root = config::RunFolder(config);
  layout.config_path = layout.root + "/config.yaml";
  layout.logs = layout.root + "/logs";
  layout.sockets = layout.root + "/sockets";
  ROLLCALL_RETURN_IF_ERROR(MakeDirectories(layout.logs));

  const std::string lock_path = layout.root + "/lock";
  const int lock_fd = open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat(lock_path, ": cannot open"));
  if (flock(lock_fd, LOCK_EX | LOCK_NB) != 0) {
    close(lock_fd);
    return absl::FailedPreconditionError(absl::StrCat(
        layout.root,
        ": another process runs in this folder; stop it, or give this run another --set name=…"));
  }
  bool private_sockets = false;
  if (layout.sockets.size() > kLongestSocketFolder) {
    absl::StatusOr<std::string> folder = PrivateSocketFolder();
    if (!folder.ok()) {
      close(lock_fd);
      return folder.status();
    }
    layout.sockets = *std::move(folder);
    private_sockets = true;
  } else if (absl::Status made = MakeDirectories(layout.sockets); !made.ok()) {
    close(lock_fd);
    return made;
  }
  return LockedRun(std::move(layout), lock_fd, private_sockets);
}

LockedRun::LockedRun(LockedRun&& other) noexcept
    : layout_(std::move(other.layout_)),
      lock_fd_(std::exchange(other.lock_fd_, -1)),
      private_sockets_(other.private_sockets_) {}

LockedRun::~LockedRun() {
  if (lock_fd_ < 0) return;
  if (private_sockets_) RemoveTree(layout_.sockets).IgnoreError();
  close(lock_fd_);
}

}  // namespace rollcall::cli
