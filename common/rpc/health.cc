#include "common/rpc/health.h"

#include <google/protobuf/unknown_field_set.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>

#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/notification.h"
#include "common/base/status.h"
#include "common/rpc/status_conversion.h"

namespace rollcall::rpc {
namespace {

// grpc.health.v1.HealthCheckRequest.service and HealthCheckResponse.status, and the latter's
// SERVING. The messages are written field by field because gRPC does not install their classes, and
// a second copy of the file in this process's descriptor pool could clash with a user's.
constexpr int kServiceField = 1;
constexpr int kStatusField = 1;
constexpr uint64_t kServing = 1;

absl::StatusOr<bool> ParseResponse(const grpc::ByteBuffer& response) {
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (!response.Dump(&slices).ok()) return absl::InternalError("health answer: unreadable");
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  google::protobuf::UnknownFieldSet fields;
  if (!fields.ParseFromString(bytes)) return absl::InternalError("health answer: malformed");
  uint64_t status = 0;
  for (int i = 0; i < fields.field_count(); ++i) {
    const google::protobuf::UnknownField& field = fields.field(i);
    if (field.number() == kStatusField &&
        field.type() == google::protobuf::UnknownField::TYPE_VARINT) {
      status = field.varint();
    }
  }
  return status == kServing;
}

}  // namespace

absl::StatusOr<bool> CheckHealth(const std::shared_ptr<grpc::Channel>& channel,
                                 const std::string& service, absl::Time deadline) {
  google::protobuf::UnknownFieldSet fields;
  if (!service.empty()) fields.AddLengthDelimited(kServiceField, service);
  std::string bytes;
  fields.SerializeToString(&bytes);
  const grpc::Slice slice(bytes);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;

  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(deadline));
  grpc::GenericStub stub(channel);
  absl::Notification done;
  grpc::Status result;
  stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &request, &response,
                 [&](grpc::Status status) {
                   result = std::move(status);
                   done.Notify();
                 });
  done.WaitForNotification();
  ROLLCALL_RETURN_IF_ERROR(FromGrpc(result));
  return ParseResponse(response);
}

}  // namespace rollcall::rpc
