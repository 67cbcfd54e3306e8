#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace rollcall::rpc {

// What of an X.509 certificate matters here.
struct CertificateInfo {
  std::string subject;
  std::vector<std::string> uris;       // URI subject alternative names
  std::vector<std::string> dns_names;  // DNS subject alternative names
  absl::Time not_before;
  absl::Time not_after;
};

// The first certificate of a PEM text. INVALID_ARGUMENT: there is none.
absl::StatusOr<CertificateInfo> ParseCertificate(std::string_view pem);

// Whether `private_key` (PEM) belongs to the first certificate of `certificate` (PEM).
// INVALID_ARGUMENT: it does not, or one of them cannot be read.
absl::Status CheckKeyPair(std::string_view certificate, std::string_view private_key);

}  // namespace rollcall::rpc
