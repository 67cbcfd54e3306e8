#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/checkpoint/safetensors.h"

namespace rollcall::checkpoint {

absl::StatusOr<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::Open(
    const std::string& path) {
  // Not blocking, for a pipe of that name; of no effect on files.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return absl::ErrnoToStatus(errno, path);
  struct stat info {};
  if (fstat(fd, &info) != 0) {
    const int error = errno;
    close(fd);
    return absl::ErrnoToStatus(error, path);
  }
  if (!S_ISREG(info.st_mode) || info.st_size < 8) {
    close(fd);
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ",
                     S_ISREG(info.st_mode) ? absl::StrCat("only ", info.st_size, " bytes long")
                                           : std::string("not a regular file")));
  }
  const size_t size = static_cast<size_t>(info.st_size);
  void* const mapped = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  const int map_error = errno;
  close(fd);  // the mapping keeps the file
  if (mapped == MAP_FAILED) return absl::ErrnoToStatus(map_error, absl::StrCat(path, ": mmap"));

  std::shared_ptr<SafetensorsFile> file(
      new SafetensorsFile(path, static_cast<const char*>(mapped), size));
  absl::StatusOr<SafetensorsHeader> header =
      ParseSafetensorsHeader({file->data_, size}, static_cast<uint64_t>(size));
  if (!header.ok()) return Annotate(header.status(), path);
  file->metadata_ = std::move(header->metadata);
  file->tensors_.reserve(header->tensors.size());
  for (TensorRecord& record : header->tensors) {
    const char* const begin = file->data_ + header->data_offset + record.begin;
    file->tensors_.push_back({std::move(record.name), record.dtype, std::move(record.shape),
                              std::string_view(begin, record.end - record.begin)});
  }
  for (const TensorView& tensor : file->tensors_) file->by_name_.emplace(tensor.name, &tensor);
  return file;
}

SafetensorsFile::~SafetensorsFile() { munmap(const_cast<char*>(data_), size_); }

void ReleasePages(std::string_view bytes) {
  if (bytes.empty()) return;
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(bytes.data()) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(bytes.data() + bytes.size());
  // Only a hint: where the system does not take it, the pages stay.
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

const TensorView* SafetensorsFile::Find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

}  // namespace rollcall::checkpoint
