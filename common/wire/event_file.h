#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/file_descriptor.h"

namespace rollcall {

// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78), as TFRecord files use it.
uint32_t Crc32c(std::string_view bytes);

// A file of scalars that TensorBoard reads: TFRecord framing (u64 length, masked CRC-32C of it,
// payload, masked CRC-32C of that; little endian) around tensorflow.Event messages. One event a
// record, so a crash tears at most the last one, which TensorBoard skips. Not thread-safe.
class EventFileWriter {
 public:
  // Makes a new file in `folder`, which is made where it is missing, named after `time`, the host
  // and the process as TensorBoard expects: events.out.tfevents.<seconds>.<host>.<pid>.
  static absl::StatusOr<std::unique_ptr<EventFileWriter>> Create(const std::string& folder,
                                                                 absl::Time time);

  // Says that a process starts (again) with this step: TensorBoard forgets what earlier files of
  // the folder have from there on.
  absl::Status AppendStart(uint64_t step, absl::Time time);

  // The scalars of a step, those that are not finite included.
  absl::Status AppendScalars(uint64_t step, absl::Time time,
                             const std::map<std::string, double>& values);

  const std::string& path() const { return path_; }

 private:
  EventFileWriter(std::string path, FileDescriptor file);

  absl::Status Append(const std::string& event);

  const std::string path_;
  const FileDescriptor file_;
};

}  // namespace rollcall
