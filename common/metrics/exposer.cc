#include "common/metrics/exposer.h"

#include <prometheus/collectable.h>
#include <prometheus/exposer.h>

#include <exception>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace rollcall::metrics {
namespace {

// One thread answers a scrape while another is read slowly by its peer.
constexpr size_t kThreads = 2;

}  // namespace

Exposer::Exposer() = default;
Exposer::~Exposer() = default;

absl::StatusOr<std::unique_ptr<Exposer>> Exposer::Start(const Registry& registry,
                                                        const std::string& address) {
  std::unique_ptr<Exposer> exposer(new Exposer);
  if (address.empty()) return exposer;
  const size_t colon = address.rfind(':');
  const std::string host = colon == std::string::npos ? "" : address.substr(0, colon);
  int port = -1;
  if (host.empty() || !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 0 ||
      port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("metrics address: expected host:port, got \"", address, "\""));
  }
  // The HTTP server takes numeric hosts only.
  const std::string numeric = host == "localhost" ? "127.0.0.1" : host;
  try {
    exposer->exposer_ =
        std::make_unique<prometheus::Exposer>(absl::StrCat(numeric, ":", port), kThreads);
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        absl::StrCat("cannot serve metrics at ", address, ": ", error.what()));
  }
  exposer->exposer_->RegisterCollectable(registry.collectable());
  exposer->bound_address_ = absl::StrCat(host, ":", exposer->exposer_->GetListeningPorts().front());
  return exposer;
}

}  // namespace rollcall::metrics
