#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "rollcall/v1/config.pb.h"

namespace rollcall::rpc {

// One line of the built-in policy: at servers named `server` ("*": that no line names), these roles may
// call the method ("*": all methods of the service).
struct AccessRule {
  std::string_view server;
  std::string_view service;  // "rollcall.v1.Weights"
  std::string_view method;
  std::vector<std::string_view> roles;
};

// The built-in policy. What it does not list is denied, apart from health checks, which every peer
// with a certificate of ours may ask. docs/security.md shows it as a table.
const std::vector<AccessRule>& BuiltInPolicy();

// The answer to one call. `role` is the first role of the peer, "" for none.
struct AccessDecision {
  bool allowed = false;
  std::string role;
  std::string reason;  // why not
};

// Who may call what at one server. A pure function of the configuration; thread-safe.
class AccessPolicy {
 public:
  // `server`: the service's name, "generator".
  AccessPolicy(const v1::SecuritySection& config, std::string_view server);

  // `names`: the URI and DNS names of the peer's certificate; `path`: "/package.Service/Method".
  AccessDecision Decide(const std::vector<std::string>& names, std::string_view path) const;

 private:
  std::vector<std::string> RolesOf(const std::vector<std::string>& names) const;

  const std::string trust_prefix_;  // "spiffe://DOMAIN/"
  std::map<std::string, std::set<std::string>> roles_of_name_;
  std::map<std::string, std::set<std::string>> roles_of_method_;  // by "package.Service/Method|*"
};

}  // namespace rollcall::rpc
