#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/metrics/registry.h"

namespace prometheus {
class Exposer;
}

namespace rollcall::metrics {

// Serves a registry over HTTP at /metrics until it is destroyed; destroy it before the registry.
class Exposer {
 public:
  // `address` is "host:port" with a numeric host or "localhost", port 0 for a free one; empty
  // serves nothing. INVALID_ARGUMENT: not such an address; UNAVAILABLE: cannot listen there.
  static absl::StatusOr<std::unique_ptr<Exposer>> Start(const Registry& registry,
                                                        const std::string& address);
  ~Exposer();

  // "host:port" with the real port; empty when nothing is served.
  const std::string& bound_address() const { return bound_address_; }

 private:
  Exposer();

  std::unique_ptr<prometheus::Exposer> exposer_;
  std::string bound_address_;
};

}  // namespace rollcall::metrics
