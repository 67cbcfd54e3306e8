#include "services/cli/up/monitoring_plan.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/base/file_descriptor.h"
#include "common/base/status.h"
#include "services/cli/train/local_services.h"

namespace rollcall::cli {
namespace {

constexpr int kAttempts = 64;

// A socket bound to the port, 0 for a free one; invalid where somebody has it.
FileDescriptor BindLoopback(uint16_t port) {
  FileDescriptor fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0)
    return fd;
  return FileDescriptor();
}

uint16_t PortOf(const FileDescriptor& fd) {
  sockaddr_in address{};
  socklen_t size = sizeof(address);
  ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.sin_port);
}

// "generator-1" is a generator, "reward-model-0" a reward-model.
std::string KindOf(const std::string& name) {
  const size_t digits = name.find_last_not_of("0123456789");
  return digits + 1 < name.size() && name[digits] == '-' ? name.substr(0, digits) : name;
}

}  // namespace

absl::StatusOr<uint16_t> FindFreePorts(uint32_t count) {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    // All are held until the last is known to be free.
    std::vector<FileDescriptor> held;
    held.push_back(BindLoopback(0));
    if (!held.back().is_open()) continue;
    const uint32_t first = PortOf(held.back());
    if (first + count > std::numeric_limits<uint16_t>::max()) continue;
    while (held.size() < count && held.back().is_open()) {
      held.push_back(BindLoopback(static_cast<uint16_t>(first + held.size())));
    }
    if (held.back().is_open()) return static_cast<uint16_t>(first);
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("127.0.0.1 has no ", count, " neighbouring ports that are free"));
}

absl::Status AddMetricsAddresses(
    v1::RunConfig* config, const std::function<absl::StatusOr<uint16_t>(uint32_t)>& free_ports) {
  std::vector<std::pair<std::string*, uint32_t>> wanted = {
      {config->mutable_learner()->mutable_metrics_listen(), config->learner().ranks()},
      {config->mutable_generator()->mutable_metrics_listen(), config->generator().replicas()},
      {config->mutable_reward()->mutable_metrics_listen(), 1},
      {config->mutable_reference()->mutable_metrics_listen(), 1}};
  for (v1::VerifierConfig& verifier : *config->mutable_reward()->mutable_verifiers()) {
    if (!verifier.has_reward_model()) continue;
    wanted.emplace_back(verifier.mutable_reward_model()->mutable_metrics_listen(), 1);
  }
  // At once, so that no two get the same.
  std::erase_if(wanted, [](const auto& one) { return !one.first->empty(); });
  uint32_t count = 0;
  for (const auto& [listen, replicas] : wanted) count += std::max(1u, replicas);
  if (count == 0) return absl::OkStatus();
  ROLLCALL_ASSIGN_OR_RETURN(uint32_t port, free_ports(count));
  for (const auto& [listen, replicas] : wanted) {
    *listen = absl::StrCat("127.0.0.1:", port);
    port += std::max(1u, replicas);
  }
  return absl::OkStatus();
}

std::vector<ScrapeTarget> ScrapeTargetsOf(const v1::RunConfig& config) {
  std::vector<ScrapeTarget> targets;
  for (const ServiceSpec& spec : PlanLocalServices(config, RunLayout{}, "").specs) {
    const std::vector<std::string>& argv = spec.child.argv;
    const auto flag = std::find(argv.begin(), argv.end(), "--metrics-listen");
    if (flag == argv.end()) continue;
    targets.push_back({KindOf(spec.child.name), *(flag + 1)});
  }
  return targets;
}

std::string PrometheusConfig(const std::vector<ScrapeTarget>& targets, int seconds,
                             const std::string& rules_folder) {
  std::string text =
      absl::StrCat("global: {scrape_interval: ", seconds, "s, evaluation_interval: ", seconds,
                   "s}\n", "rule_files: ['", rules_folder, "/*.yml']\n",
                   "scrape_configs:\n"
                   "  - job_name: rollcall\n"
                   "    static_configs:\n");
  for (const ScrapeTarget& target : targets) {
    absl::StrAppend(&text, "      - targets: ['", target.address, "']\n",
                    "        labels: {service: ", target.service, "}\n");
  }
  return text;
}

std::vector<Query> FirstQueries() {
  return {
      {"mean reward of the last step", "rollcall_learner_step_value{name=\"reward/mean\"}"},
      {"sampled tokens a second", "sum(rollcall:sampled_tokens:rate1m)"},
      {"seconds of a step, 90th percentile",
       "histogram_quantile(0.9, sum by (le) (rate(rollcall_learner_step_seconds_bucket[5m])))"}};
}

}  // namespace rollcall::cli
