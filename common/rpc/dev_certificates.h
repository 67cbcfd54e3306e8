#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace rollcall::rpc {

// A small certificate authority in a folder, for trying TLS on one's own machines and for tests;
// a cluster has cert-manager. Keys are ECDSA on P-256, readable by their owner only.

struct DevCertificate {
  std::string name;                // of the files: NAME.pem, NAME.key
  std::vector<std::string> uris;   // "spiffe://rollcall/learner"
  std::vector<std::string> hosts;  // DNS names and IP addresses it is valid for
  absl::Time not_before;
  absl::Time not_after;
};

// Makes ca.pem and ca.key in `folder` unless both are there.
absl::Status MakeDevAuthority(const std::string& folder, absl::Time not_before,
                              absl::Time not_after);

// Writes NAME.key and NAME.pem, signed by the folder's authority; the key first, and each file at
// once, so that a process that watches them never reads half of one. NOT_FOUND: no authority there.
absl::Status IssueDevCertificate(const std::string& folder, const DevCertificate& certificate);

}  // namespace rollcall::rpc
