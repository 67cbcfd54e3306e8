#include "common/rpc/security.h"

#include <arpa/inet.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/rpc/certificate.h"

namespace rollcall::rpc {
namespace {

using grpc::experimental::FileWatcherCertificateProvider;
using grpc::experimental::TlsChannelCredentialsOptions;
using grpc::experimental::TlsServerCredentialsOptions;

absl::Status CheckFiles(const v1::SecuritySection& config) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::string certificate, ReadFile(config.certificate()));
  ROLLCALL_ASSIGN_OR_RETURN(const std::string key, ReadFile(config.private_key()));
  ROLLCALL_ASSIGN_OR_RETURN(const std::string roots, ReadFile(config.trust_roots()));
  const absl::StatusOr<CertificateInfo> info = ParseCertificate(certificate);
  if (!info.ok()) return Annotate(info.status(), "security.certificate " + config.certificate());
  ROLLCALL_RETURN_IF_ERROR(
      Annotate(CheckKeyPair(certificate, key), "security.private_key " + config.private_key()));
  ROLLCALL_RETURN_IF_ERROR(
      Annotate(ParseCertificate(roots).status(), "security.trust_roots " + config.trust_roots()));
  const absl::Time now = absl::Now();
  if (now < info->not_before || now > info->not_after) {
    return absl::FailedPreconditionError(
        absl::StrCat("security.certificate ", config.certificate(), ": valid from ",
                     absl::FormatTime(info->not_before, absl::UTCTimeZone()), " to ",
                     absl::FormatTime(info->not_after, absl::UTCTimeZone()), ", not now"));
  }
  return absl::OkStatus();
}

}  // namespace

bool IsLocal(const Address& address) {
  if (address.is_unix() || address.host == "localhost") return true;
  in_addr v4{};
  if (::inet_pton(AF_INET, address.host.c_str(), &v4) == 1) {
    return (ntohl(v4.s_addr) >> 24) == IN_LOOPBACKNET;
  }
  in6_addr v6{};
  return ::inet_pton(AF_INET6, address.host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

TlsIdentity::TlsIdentity(std::string certificate_path,
                         std::shared_ptr<grpc::experimental::CertificateProviderInterface> provider)
    : certificate_path_(std::move(certificate_path)), provider_(std::move(provider)) {}

absl::StatusOr<std::shared_ptr<const TlsIdentity>> TlsIdentity::Load(
    const v1::SecuritySection& config) {
  ROLLCALL_RETURN_IF_ERROR(CheckFiles(config));
  const auto seconds = static_cast<unsigned>(std::max(1.0, config.refresh_interval()));
  auto provider = std::make_shared<FileWatcherCertificateProvider>(
      config.private_key(), config.certificate(), config.trust_roots(), seconds);
  return std::shared_ptr<const TlsIdentity>(
      new TlsIdentity(config.certificate(), std::move(provider)));
}

// The options object becomes the credentials': a second use of one crashes gRPC 1.51, so each
// credentials object has its own, around the one provider that watches the files.

std::shared_ptr<grpc::ChannelCredentials> TlsIdentity::ForChannel() const {
  TlsChannelCredentialsOptions options;
  options.set_certificate_provider(provider_);
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_verify_server_certs(true);
  return grpc::experimental::TlsCredentials(options);
}

std::shared_ptr<grpc::ServerCredentials> TlsIdentity::ForServer() const {
  TlsServerCredentialsOptions options(provider_);
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  return grpc::experimental::TlsServerCredentials(options);
}

absl::Time TlsIdentity::Expiry() const {
  const absl::StatusOr<std::string> pem = ReadFile(certificate_path_);
  if (!pem.ok()) return absl::InfinitePast();
  const absl::StatusOr<CertificateInfo> info = ParseCertificate(*pem);
  return info.ok() ? info->not_after : absl::InfinitePast();
}

absl::StatusOr<Security> Security::FromConfig(const v1::SecuritySection& config) {
  Security security;
  security.insecure = config.insecure();
  if (!config.certificate().empty()) {
    ROLLCALL_ASSIGN_OR_RETURN(security.identity, TlsIdentity::Load(config));
  }
  return security;
}

absl::Status Security::CheckPlaintext(const Address& address) const {
  if (insecure || IsLocal(address)) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      address.ToString(),
      " is not of this machine alone: set security.certificate, private_key and trust_roots for "
      "TLS, or security.insecure: true for plain text"));
}

}  // namespace rollcall::rpc
