#include "common/rpc/access_policy.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace rollcall::rpc {
namespace {

constexpr std::string_view kHealthService = "grpc.health.v1.Health";

// Whether the rule is for this server: one that names it, or "*" where none does.
bool AppliesTo(const AccessRule& rule, std::string_view server) {
  if (rule.server == server) return true;
  if (rule.server != "*") return false;
  for (const AccessRule& other : BuiltInPolicy()) {
    if (other.server == server) return false;
  }
  return true;
}

std::string Key(std::string_view service, std::string_view method) {
  return absl::StrCat(std::string(service), "/", std::string(method));
}

}  // namespace

const std::vector<AccessRule>& BuiltInPolicy() {
  static const auto* const policy = new std::vector<AccessRule>{
      {"generator", "rollcall.v1.Generator", "*", {"learner", "operator"}},
      {"generator", "rollcall.v1.Weights", "Begin", {"learner"}},
      {"generator", "rollcall.v1.Weights", "Push", {"learner"}},
      {"generator", "rollcall.v1.Weights", "Commit", {"learner"}},
      {"generator", "rollcall.v1.Weights", "Abort", {"learner"}},
      {"generator", "rollcall.v1.Weights", "GetState", {"learner", "generator", "operator"}},
      {"generator", "rollcall.v1.Weights", "Fetch", {"generator"}},
      {"reference", "rollcall.v1.LogProb", "*", {"learner", "operator"}},
      {"reward", "rollcall.v1.Verifier", "*", {"learner", "operator"}},
      {"learner", "rollcall.v1.Learner", "*", {"operator"}},
      // A reward model, or another verifier built on this library.
      {"*", "rollcall.v1.Verifier", "*", {"reward", "operator"}},
  };
  return *policy;
}

AccessPolicy::AccessPolicy(const v1::SecuritySection& config, std::string_view server)
    : trust_prefix_(absl::StrCat("spiffe://", config.trust_domain(), "/")) {
  for (const v1::PeerIdentity& identity : config.identities()) {
    for (const std::string& name : identity.names()) roles_of_name_[name].insert(identity.role());
  }
  for (const AccessRule& rule : BuiltInPolicy()) {
    if (!AppliesTo(rule, server)) continue;
    std::set<std::string>& roles = roles_of_method_[Key(rule.service, rule.method)];
    for (std::string_view role : rule.roles) roles.emplace(role);
  }
  for (const v1::AccessRule& rule : config.allow()) {
    roles_of_method_[rule.method()].insert(rule.role());
  }
}

std::vector<std::string> AccessPolicy::RolesOf(const std::vector<std::string>& names) const {
  std::set<std::string> roles;
  for (const std::string& name : names) {
    if (name.rfind(trust_prefix_, 0) == 0) {
      std::string role = name.substr(trust_prefix_.size());
      if (!role.empty() && role.find('/') == std::string::npos) roles.insert(std::move(role));
    }
    const auto listed = roles_of_name_.find(name);
    if (listed != roles_of_name_.end()) roles.insert(listed->second.begin(), listed->second.end());
  }
  return {roles.begin(), roles.end()};
}

AccessDecision AccessPolicy::Decide(const std::vector<std::string>& names,
                                    std::string_view path) const {
  const std::vector<std::string> roles = RolesOf(names);
  AccessDecision decision{.role = roles.empty() ? "" : roles.front()};
  const size_t slash = path.rfind('/');
  if (!path.starts_with('/') || slash == 0) {
    decision.reason = "malformed method";
    return decision;
  }
  const std::string_view service = path.substr(1, slash - 1);
  if (service == kHealthService) {
    decision.allowed = true;
    return decision;
  }
  for (std::string_view method : {path.substr(slash + 1), std::string_view("*")}) {
    const auto allowed = roles_of_method_.find(Key(service, method));
    if (allowed == roles_of_method_.end()) continue;
    for (const std::string& role : roles) {
      if (allowed->second.count(role) == 0) continue;
      decision.allowed = true;
      decision.role = role;
      return decision;
    }
  }
  decision.reason =
      roles.empty()
          ? absl::StrCat("none of the certificate's names has a role: ", absl::StrJoin(names, ", "))
          : absl::StrCat("role ", absl::StrJoin(roles, ", "), " may not call ",
                         std::string(path.substr(1)), " here");
  return decision;
}

}  // namespace rollcall::rpc
