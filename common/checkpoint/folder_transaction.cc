#include "common/checkpoint/folder_transaction.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"

namespace rollcall::checkpoint {
namespace {

namespace fs = std::filesystem;

struct Names {
  std::string parent;
  std::string partial_prefix;  // of a file name in parent
  std::string replaced;        // whole path
};

absl::StatusOr<Names> NamesFor(const std::string& target) {
  const fs::path path(target);
  const std::string base = path.filename().string();
  if (base.empty() || base == "." || base == "..") {
    return absl::InvalidArgumentError(
        absl::StrCat("'", target, "' does not name a folder to write"));
  }
  Names names;
  names.parent = path.parent_path().empty() ? "." : path.parent_path().string();
  names.partial_prefix = absl::StrCat(".", base, ".partial.");
  names.replaced = (fs::path(names.parent) / absl::StrCat(".", base, ".replaced")).string();
  return names;
}

// "a/b/" names the same folder as "a/b".
std::string WithoutTrailingSlash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

bool Exists(const std::string& path) {
  struct stat info {};
  return lstat(path.c_str(), &info) == 0;
}

// A folder whose writer lives is locked by it; the system drops the lock of a writer that died.
bool IsAbandoned(const std::string& folder) {
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool abandoned = flock(fd, LOCK_EX | LOCK_NB) == 0;
  close(fd);
  return abandoned;
}

absl::Status SyncFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, path);
  const int result = fsync(fd);
  const int error = errno;
  close(fd);
  return result == 0 ? absl::OkStatus() : absl::ErrnoToStatus(error, absl::StrCat(path, ": fsync"));
}

absl::Status SyncTree(const std::string& folder) {
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    if (it->is_symlink(error)) continue;
    if (it->is_directory(error)) {
      ROLLCALL_RETURN_IF_ERROR(SyncDirectory(it->path().string()));
    } else {
      ROLLCALL_RETURN_IF_ERROR(SyncFile(it->path().string()));
    }
  }
  if (error) return absl::ErrnoToStatus(error.value(), folder);
  return SyncDirectory(folder);
}

absl::Status Rename(const std::string& from, const std::string& to) {
  if (rename(from.c_str(), to.c_str()) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("rename ", from, " to ", to));
}

// Puts `path` in the place of `target` and the old target at the returned path.
absl::StatusOr<std::string> Exchange(const std::string& path, const std::string& target,
                                     const std::string& replaced) {
  if (renameat2(AT_FDCWD, path.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) == 0)
    return path;
  if (errno != EINVAL && errno != ENOSYS) {
    return absl::ErrnoToStatus(errno, absl::StrCat("exchange ", path, " and ", target));
  }
  ROLLCALL_RETURN_IF_ERROR(Rename(target, replaced));
  const absl::Status renamed = Rename(path, target);
  if (!renamed.ok()) {
    Rename(replaced, target).IgnoreError();  // the first error is the one to report
    return renamed;
  }
  return replaced;
}

}  // namespace

absl::Status FolderTransaction::Recover(const std::string& raw_target) {
  const std::string target = WithoutTrailingSlash(raw_target);
  ROLLCALL_ASSIGN_OR_RETURN(const Names names, NamesFor(target));
  if (Exists(names.replaced)) {
    ROLLCALL_RETURN_IF_ERROR(Exists(target) ? RemoveTree(names.replaced)
                                            : Rename(names.replaced, target));
  }
  std::error_code error;
  std::vector<std::string> abandoned;
  for (fs::directory_iterator it(names.parent, error), end; !error && it != end;
       it.increment(error)) {
    if (absl::StartsWith(it->path().filename().string(), names.partial_prefix) &&
        IsAbandoned(it->path().string())) {
      abandoned.push_back(it->path().string());
    }
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return absl::ErrnoToStatus(error.value(), names.parent);
  }
  for (const std::string& folder : abandoned) ROLLCALL_RETURN_IF_ERROR(RemoveTree(folder));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<FolderTransaction>> FolderTransaction::Begin(
    const std::string& raw_target) {
  const std::string target = WithoutTrailingSlash(raw_target);
  ROLLCALL_ASSIGN_OR_RETURN(const Names names, NamesFor(target));
  ROLLCALL_RETURN_IF_ERROR(MakeDirectories(names.parent));
  ROLLCALL_RETURN_IF_ERROR(Recover(target));
  std::string path =
      (fs::path(names.parent) / absl::StrCat(names.partial_prefix, "XXXXXX")).string();
  if (mkdtemp(path.data()) == nullptr) return absl::ErrnoToStatus(errno, path);
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  // mkdtemp makes it private; the finished folder is for others to read.
  if (fd < 0 || fchmod(fd, 0755) != 0 || flock(fd, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    if (fd >= 0) close(fd);
    rmdir(path.c_str());
    return absl::ErrnoToStatus(error, path);
  }
  return std::unique_ptr<FolderTransaction>(new FolderTransaction(target, path, fd));
}

FolderTransaction::~FolderTransaction() {
  if (lock_fd_ < 0) return;
  RemoveTree(path_).IgnoreError();  // what stays is removed by the next Recover
  close(lock_fd_);
}

absl::Status FolderTransaction::Commit() {
  if (lock_fd_ < 0)
    return absl::FailedPreconditionError(absl::StrCat(target_, ": already committed"));
  ROLLCALL_ASSIGN_OR_RETURN(const Names names, NamesFor(target_));
  ROLLCALL_RETURN_IF_ERROR(SyncTree(path_));
  std::string old;
  if (Exists(target_)) {
    ROLLCALL_ASSIGN_OR_RETURN(old, Exchange(path_, target_, names.replaced));
  } else {
    ROLLCALL_RETURN_IF_ERROR(Rename(path_, target_));
  }
  close(lock_fd_);
  lock_fd_ = -1;
  ROLLCALL_RETURN_IF_ERROR(SyncDirectory(names.parent));
  return old.empty() ? absl::OkStatus() : RemoveTree(old);
}

}  // namespace rollcall::checkpoint
