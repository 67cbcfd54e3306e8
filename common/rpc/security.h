#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/rpc/address.h"
#include "rollcall/v1/config.pb.h"

namespace grpc {
class ChannelCredentials;
class ServerCredentials;
namespace experimental {
class CertificateProviderInterface;
}
}  // namespace grpc

namespace rollcall::rpc {

// Whether only this machine reaches the address: a Unix socket, 127.0.0.0/8, ::1 or localhost.
bool IsLocal(const Address& address);

// Who this process is to its peers, and whom it believes: certificate, key and authorities from
// files that are read again as they change, for new connections. Thread-safe.
class TlsIdentity {
 public:
  // Reads the three files once. INVALID_ARGUMENT: a file holds something else, the key is another
  // certificate's; FAILED_PRECONDITION: the certificate is not valid now; NOT_FOUND and the like:
  // it cannot be read.
  static absl::StatusOr<std::shared_ptr<const TlsIdentity>> Load(const v1::SecuritySection& config);

  // Mutual TLS; the server's certificate must have the name, or IP address, that was connected to.
  std::shared_ptr<grpc::ChannelCredentials> ForChannel() const;
  // Mutual TLS; a client must show a certificate of the authorities.
  std::shared_ptr<grpc::ServerCredentials> ForServer() const;

  // When the certificate that is in the file now ends; InfinitePast when it cannot be read.
  absl::Time Expiry() const;

 private:
  TlsIdentity(std::string certificate_path,
              std::shared_ptr<grpc::experimental::CertificateProviderInterface> provider);

  const std::string certificate_path_;
  const std::shared_ptr<grpc::experimental::CertificateProviderInterface> provider_;
};

// How a process secures its connections; made once from section `security`.
struct Security {
  // Null: plain text.
  std::shared_ptr<const TlsIdentity> identity;
  // Plain text also to and from other machines.
  bool insecure = false;

  // The statuses of TlsIdentity::Load.
  static absl::StatusOr<Security> FromConfig(const v1::SecuritySection& config);

  // Whether connections at `address` are TLS: all of TCP where there is an identity.
  bool UsesTls(const Address& address) const { return identity != nullptr && !address.is_unix(); }
  // FAILED_PRECONDITION: plain text to another machine, which nobody has allowed.
  absl::Status CheckPlaintext(const Address& address) const;
};

}  // namespace rollcall::rpc
