#include "common/wire/event_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"

namespace rollcall {
namespace {

constexpr uint32_t kPolynomial = 0x82F63B78;

// Fields of tensorflow/core/util/event.proto and framework/summary.proto.
constexpr int kEventWallTime = 1;     // double
constexpr int kEventStep = 2;         // int64
constexpr int kEventFileVersion = 3;  // string
constexpr int kEventSummary = 5;      // Summary
constexpr int kEventSessionLog = 7;   // SessionLog
constexpr int kSummaryValue = 1;      // repeated Value
constexpr int kValueTag = 1;          // string
constexpr int kValueSimple = 2;       // float
constexpr int kSessionStatus = 1;     // enum
constexpr uint64_t kSessionStart = 1;

std::array<uint32_t, 256> MakeTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < table.size(); ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? kPolynomial : 0);
    table[i] = value;
  }
  return table;
}

// TFRecord's mask: a CRC of data that holds CRCs would be weak.
uint32_t Masked(uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u; }

template <typename T>
void AppendLittleEndian(T value, std::string* out) {
  for (size_t i = 0; i < sizeof(T); ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}

// The three shapes of protobuf's wire format that are needed.
void AppendVarint(uint64_t value, std::string* out) {
  for (; value >= 0x80; value >>= 7) out->push_back(static_cast<char>(value | 0x80));
  out->push_back(static_cast<char>(value));
}
void AppendVarintField(int field, uint64_t value, std::string* out) {
  AppendVarint(static_cast<uint64_t>(field) << 3, out);
  AppendVarint(value, out);
}
void AppendBytesField(int field, std::string_view bytes, std::string* out) {
  AppendVarint(static_cast<uint64_t>(field) << 3 | 2, out);
  AppendVarint(bytes.size(), out);
  out->append(bytes);
}
void AppendDoubleField(int field, double value, std::string* out) {
  AppendVarint(static_cast<uint64_t>(field) << 3 | 1, out);
  AppendLittleEndian(std::bit_cast<uint64_t>(value), out);
}
void AppendFloatField(int field, float value, std::string* out) {
  AppendVarint(static_cast<uint64_t>(field) << 3 | 5, out);
  AppendLittleEndian(std::bit_cast<uint32_t>(value), out);
}

std::string EventHead(absl::Time time, uint64_t step) {
  std::string event;
  AppendDoubleField(kEventWallTime, absl::ToDoubleSeconds(time - absl::UnixEpoch()), &event);
  AppendVarintField(kEventStep, step, &event);
  return event;
}

std::string HostName() {
  char name[256] = "";
  if (::gethostname(name, sizeof(name) - 1) != 0 || name[0] == '\0') return "localhost";
  return name;
}

}  // namespace

uint32_t Crc32c(std::string_view bytes) {
  static const std::array<uint32_t, 256> table = MakeTable();
  uint32_t crc = 0xFFFFFFFF;
  for (unsigned char byte : bytes) crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF];
  return ~crc;
}

absl::StatusOr<std::unique_ptr<EventFileWriter>> EventFileWriter::Create(const std::string& folder,
                                                                         absl::Time time) {
  ROLLCALL_RETURN_IF_ERROR(MakeDirectories(folder));
  // Ten digits, so that the names sort by time.
  const std::string path = absl::StrCat(folder, "/events.out.tfevents.",
                                        absl::Dec(absl::ToUnixSeconds(time), absl::kZeroPad10), ".",
                                        HostName(), ".", ::getpid());
  FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!file.is_open()) return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot open"));
  std::unique_ptr<EventFileWriter> writer(new EventFileWriter(path, std::move(file)));
  std::string event = EventHead(time, 0);
  AppendBytesField(kEventFileVersion, "brain.Event:2", &event);
  ROLLCALL_RETURN_IF_ERROR(writer->Append(event));
  return writer;
}

EventFileWriter::EventFileWriter(std::string path, FileDescriptor file)
    : path_(std::move(path)), file_(std::move(file)) {}

absl::Status EventFileWriter::AppendStart(uint64_t step, absl::Time time) {
  std::string session;
  AppendVarintField(kSessionStatus, kSessionStart, &session);
  std::string event = EventHead(time, step);
  AppendBytesField(kEventSessionLog, session, &event);
  return Append(event);
}

absl::Status EventFileWriter::AppendScalars(uint64_t step, absl::Time time,
                                            const std::map<std::string, double>& values) {
  std::string summary;
  for (const auto& [tag, scalar] : values) {
    std::string value;
    AppendBytesField(kValueTag, tag, &value);
    AppendFloatField(kValueSimple, static_cast<float>(scalar), &value);
    AppendBytesField(kSummaryValue, value, &summary);
  }
  std::string event = EventHead(time, step);
  AppendBytesField(kEventSummary, summary, &event);
  return Append(event);
}

absl::Status EventFileWriter::Append(const std::string& event) {
  std::string record;
  AppendLittleEndian(static_cast<uint64_t>(event.size()), &record);
  AppendLittleEndian(Masked(Crc32c(record)), &record);
  record += event;
  AppendLittleEndian(Masked(Crc32c(event)), &record);
  if (::write(file_.get(), record.data(), record.size()) != static_cast<ssize_t>(record.size())) {
    return absl::ErrnoToStatus(errno, absl::StrCat(path_, ": cannot write"));
  }
  return absl::OkStatus();
}

}  // namespace rollcall
