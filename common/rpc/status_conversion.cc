#include "common/rpc/status_conversion.h"

#include <google/protobuf/any.pb.h>
#include <google/protobuf/unknown_field_set.h>

#include <string>
#include <string_view>

#include "absl/strings/cord.h"
#include "common/rpc/limits.h"

namespace rollcall::rpc {
namespace {

// Field numbers of google.rpc.Status, whose C++ class Debian's gRPC does not install.
constexpr int kCodeField = 1;
constexpr int kMessageField = 2;
constexpr int kDetailsField = 3;

constexpr std::string_view kCutMark = " [cut]";

// Bytes on the wire: gRPC percent-encodes what is not printable ASCII.
size_t EncodedSize(char c) { return c >= ' ' && c <= '~' && c != '%' ? 1 : 3; }

bool IsUtf8Continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

std::string CutToTrailer(std::string_view message) {
  size_t encoded = 0;
  size_t size = 0;
  size_t kept = 0;  // longest prefix that leaves room for the mark
  for (; size < message.size() && encoded <= kMaxStatusBytes; ++size) {
    if (encoded + kCutMark.size() <= kMaxStatusBytes) kept = size;
    encoded += EncodedSize(message[size]);
  }
  if (encoded <= kMaxStatusBytes) return std::string(message);
  while (kept > 0 && IsUtf8Continuation(message[kept])) --kept;
  return std::string(message.substr(0, kept)).append(kCutMark);
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::string message =
      CutToTrailer(std::string_view(status.message().data(), status.message().size()));
  google::protobuf::UnknownFieldSet rich;
  status.ForEachPayload([&rich](absl::string_view type_url, const absl::Cord& payload) {
    google::protobuf::Any detail;
    detail.set_type_url(std::string(type_url));
    detail.set_value(std::string(payload));
    rich.AddLengthDelimited(kDetailsField, detail.SerializeAsString());
  });
  if (rich.empty()) return grpc::Status(code, message);
  rich.AddVarint(kCodeField, static_cast<uint64_t>(status.code()));
  rich.AddLengthDelimited(kMessageField, message.substr(0, 200));
  std::string details;
  rich.SerializeToString(&details);
  if (details.size() * 4 / 3 > kMaxStatusBytes) details.clear();
  return grpc::Status(code, message, details);
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const int number = static_cast<int>(status.error_code());
  const bool known = number > 0 && number <= static_cast<int>(absl::StatusCode::kUnauthenticated);
  absl::Status converted(known ? static_cast<absl::StatusCode>(number) : absl::StatusCode::kUnknown,
                         status.error_message());
  google::protobuf::UnknownFieldSet rich;
  if (!rich.ParseFromString(status.error_details())) return converted;
  for (int i = 0; i < rich.field_count(); ++i) {
    const google::protobuf::UnknownField& field = rich.field(i);
    google::protobuf::Any detail;
    if (field.number() == kDetailsField &&
        field.type() == google::protobuf::UnknownField::TYPE_LENGTH_DELIMITED &&
        detail.ParseFromString(field.length_delimited())) {
      converted.SetPayload(detail.type_url(), absl::Cord(detail.value()));
    }
  }
  return converted;
}

}  // namespace rollcall::rpc
