#include <cstdio>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "common/rpc/access_policy.h"
#include "common/rpc/dev_certificates.h"
#include "services/cli/commands/commands.h"
#include "services/cli/commands/reporting.h"

namespace rollcall::cli {
namespace {

// Clocks of the machines that take part may differ by this much.
constexpr absl::Duration kClockSkew = absl::Minutes(5);

struct Flags {
  std::string folder = "certs";
  std::string trust_domain = "rollcall";
  std::vector<std::string> hosts = {"localhost", "127.0.0.1", "::1"};
  std::vector<std::string> roles;
  int days = 30;
};

std::vector<std::string> AllRoles() {
  std::set<std::string> roles = {"verifier"};
  for (const rpc::AccessRule& rule : rpc::BuiltInPolicy()) {
    if (rule.server != "*") roles.emplace(rule.server);
    for (std::string_view role : rule.roles) roles.emplace(role);
  }
  return {roles.begin(), roles.end()};
}

absl::Status MakeCertificates(const Flags& flags) {
  const absl::Time start = absl::Now() - kClockSkew;
  const absl::Time end = absl::Now() + absl::Hours(24) * flags.days;
  ROLLCALL_RETURN_IF_ERROR(rpc::MakeDevAuthority(flags.folder, start, end));
  for (const std::string& role : flags.roles.empty() ? AllRoles() : flags.roles) {
    ROLLCALL_RETURN_IF_ERROR(rpc::IssueDevCertificate(
        flags.folder, {.name = role,
                       .uris = {absl::StrCat("spiffe://", flags.trust_domain, "/", role)},
                       .hosts = flags.hosts,
                       .not_before = start,
                       .not_after = end}));
    std::printf("%s/%s.pem  %s.key\n", flags.folder.c_str(), role.c_str(), role.c_str());
  }
  std::printf(
      "\nFor the learner, and each other service alike:\n"
      "  --set security.certificate=%s/learner.pem --set "
      "security.private_key=%s/learner.key --set security.trust_roots=%s/ca.pem\n",
      flags.folder.c_str(), flags.folder.c_str(), flags.folder.c_str());
  return absl::OkStatus();
}

}  // namespace

void AddCertsCommand(CLI::App& app, int& exit_code) {
  CLI::App* certs = app.add_subcommand("certs", "Certificates of the services");
  certs->require_subcommand(1);
  auto flags = std::make_shared<Flags>();
  CLI::App* dev = certs->add_subcommand(
      "dev", "Make a local certificate authority and a certificate for each role, to try TLS");
  dev->add_option("--out", flags->folder, "Folder; an authority that is there is used again")
      ->capture_default_str();
  dev->add_option("--host", flags->hosts,
                  "DNS name or IP address that the services are reached by; may be repeated")
      ->capture_default_str();
  dev->add_option("--role", flags->roles, "Only this role; may be repeated");
  dev->add_option("--trust-domain", flags->trust_domain, "As security.trust_domain")
      ->capture_default_str();
  dev->add_option("--days", flags->days, "How long they are valid")
      ->check(CLI::Range(1, 3650))
      ->capture_default_str();
  dev->callback([flags, &exit_code] { exit_code = Report(MakeCertificates(*flags)); });
}

}  // namespace rollcall::cli
