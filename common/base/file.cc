#include "common/base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "common/base/file_descriptor.h"
#include "common/base/status.h"

namespace rollcall {
namespace {

absl::Status ErrnoStatus(std::string_view action, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat(std::string(action), " ", path));
}

absl::Status FilesystemStatus(const std::error_code& error, std::string_view action,
                              const std::string& path) {
  return absl::ErrnoToStatus(error.value(), absl::StrCat(std::string(action), " ", path));
}

absl::Status WriteAll(int descriptor, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus("cannot write", path);
    }
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

// Creates, fills and syncs the temporary file; the caller removes it on an error.
absl::Status WriteAndSync(const std::string& path, std::string_view bytes) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (descriptor < 0) return ErrnoStatus("cannot create", path);
  absl::Status status = WriteAll(descriptor, bytes, path);
  if (status.ok() && ::fsync(descriptor) != 0) status = ErrnoStatus("cannot sync", path);
  if (::close(descriptor) != 0 && status.ok()) status = ErrnoStatus("cannot close", path);
  return status;
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.is_open()) return ErrnoStatus("cannot open", path);
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) return ErrnoStatus("cannot stat", path);
  if (S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read ", path, ": it is a folder"));
  }
  std::string bytes;
  // One byte more than the size, so that a file of the stated size ends with a short read and no
  // growth. Files whose size is not known (pipes, /proc) say 0 and grow.
  size_t used = 0;
  bytes.resize(static_cast<size_t>(info.st_size) + 1);
  while (true) {
    if (used == bytes.size()) bytes.resize(2 * bytes.size());
    const ssize_t count = ::read(file.get(), bytes.data() + used, bytes.size() - used);
    if (count < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus("cannot read", path);
    }
    if (count == 0) break;
    used += static_cast<size_t>(count);
  }
  bytes.resize(used);
  return bytes;
}

absl::Status WriteFileAtomically(const std::string& path, std::string_view bytes) {
  static std::atomic<uint64_t> serial = 0;
  const std::string temporary = absl::StrCat(path, ".tmp.", ::getpid(), ".", serial.fetch_add(1));
  absl::Cleanup remove_temporary = [&temporary] { ::unlink(temporary.c_str()); };
  ROLLCALL_RETURN_IF_ERROR(WriteAndSync(temporary, bytes));
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    return ErrnoStatus(absl::StrCat("cannot rename ", temporary, " to"), path);
  }
  std::move(remove_temporary).Cancel();
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return SyncDirectory(parent.empty() ? "." : parent);
}

absl::Status MakeDirectories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return FilesystemStatus(error, "cannot make the folder", path);
  if (!std::filesystem::is_directory(path, error)) {
    return absl::AlreadyExistsError(absl::StrCat(path, " exists and is not a folder"));
  }
  return absl::OkStatus();
}

absl::Status RemoveTree(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error) return FilesystemStatus(error, "cannot remove", path);
  return absl::OkStatus();
}

absl::Status SyncDirectory(const std::string& path) {
  const FileDescriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.is_open()) return ErrnoStatus("cannot open the folder", path);
  if (::fsync(folder.get()) != 0) return ErrnoStatus("cannot sync the folder", path);
  return absl::OkStatus();
}

}  // namespace rollcall
