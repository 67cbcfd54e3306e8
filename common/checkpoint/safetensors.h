#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/wire/dtype.h"

namespace rollcall::checkpoint {

// The safetensors format, without LibTorch: 8 bytes little-endian header length, a JSON header
// {"name": {"dtype", "shape", "data_offsets": [begin, end)}, …, "__metadata__": {string: string}},
// then the data.

// One tensor's place in a file or in memory. `bytes` are row-major, little-endian, of no particular
// alignment, and belong to somebody else.
struct TensorView {
  std::string name;
  wire::DType dtype = wire::DType::kFloat32;
  std::vector<int64_t> shape;
  std::string_view bytes;
};

// One tensor as the header describes it; offsets count from the first byte after the header.
struct TensorRecord {
  std::string name;
  wire::DType dtype = wire::DType::kFloat32;
  std::vector<int64_t> shape;
  uint64_t begin = 0;
  uint64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<TensorRecord> tensors;  // in data order: without gaps, from 0 to the end of the data
  std::map<std::string, std::string> metadata;
  uint64_t data_offset = 0;  // of the first data byte in the file
};

// Longer headers are refused, as the format's own implementation does: 100 MB describe about a
// million tensors.
inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;

// Reads and checks a header. `start` is the beginning of the file, at least its first 8 + header
// length bytes; `file_size` is the size of the whole. Pure: any bytes give a header or
// INVALID_ARGUMENT naming tensor and value.
//
// Checked: header length within the file and kMaxSafetensorsHeader, strict JSON of exactly the
// format's structure, names unique, dtype known, shape times element size equal to the length of
// the range without overflow, ranges neither overlapping nor leaving holes nor reaching beyond the
// file, the last one ending where the file ends.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view start,
                                                         uint64_t file_size);

// A safetensors file mapped into memory, its whole header checked. Immutable and thread-safe; views
// stay valid as long as the object. The file must not be shortened meanwhile: writers of ours
// replace files, they never rewrite them.
class SafetensorsFile {
 public:
  // NOT_FOUND, PERMISSION_DENIED or UNAVAILABLE as the system says; INVALID_ARGUMENT where the file
  // is malformed. Each message starts with the path.
  static absl::StatusOr<std::shared_ptr<const SafetensorsFile>> Open(const std::string& path);

  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;
  ~SafetensorsFile();

  const std::string& path() const { return path_; }
  const std::vector<TensorView>& tensors() const { return tensors_; }  // in data order
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const TensorView* Find(std::string_view name) const;  // nullptr: not in the file

 private:
  SafetensorsFile(std::string path, const char* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}

  const std::string path_;
  const char* const data_;
  const size_t size_;
  std::vector<TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
  std::unordered_map<std::string_view, const TensorView*> by_name_;
};

// Takes the pages of a mapped file's `bytes`, such as those of a TensorView, out of this process's
// memory after they were copied. They stay readable, from the page cache or the disk.
void ReleasePages(std::string_view bytes);

// What a file to be written will hold.
struct TensorEntry {
  std::string name;
  wire::DType dtype = wire::DType::kFloat32;
  std::vector<int64_t> shape;
};

// Writes one safetensors file as a stream: the tensors' bytes are handed over one after the other
// and are never held together. The file appears under its name, complete and on disk, when Finish
// returns OK; a writer that is destroyed before leaves nothing. Deterministic: equal entries,
// metadata and bytes give equal files. Not thread-safe.
class SafetensorsWriter {
 public:
  // INVALID_ARGUMENT: a name twice, "__metadata__" as a name, a negative dimension, a header above
  // the limit.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      const std::string& path, std::vector<TensorEntry> entries,
      const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;
  ~SafetensorsWriter();

  // The order in which Append wants the tensors: larger element sizes first, which keeps every
  // tensor aligned to its elements, and otherwise the order given.
  const std::vector<TensorEntry>& entries() const { return entries_; }

  // The whole of the next tensor; INVALID_ARGUMENT if its length is not what the entry says.
  absl::Status Append(std::string_view bytes);

  // FAILED_PRECONDITION if tensors are missing. Syncs the file, gives it its name and syncs its
  // folder.
  absl::Status Finish();

 private:
  SafetensorsWriter(std::string path, std::string partial_path, int fd,
                    std::vector<TensorEntry> entries)
      : path_(std::move(path)),
        partial_path_(std::move(partial_path)),
        fd_(fd),
        entries_(std::move(entries)) {}

  absl::Status Write(std::string_view bytes);

  const std::string path_;
  const std::string partial_path_;
  int fd_;  // -1 once closed
  const std::vector<TensorEntry> entries_;
  size_t next_ = 0;  // index of the entry that Append expects
};

}  // namespace rollcall::checkpoint
