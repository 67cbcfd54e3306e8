#pragma once

#include <string_view>
#include <vector>

namespace rollcall::cli {

// deploy/prometheus/rules, as they were when this was built.
struct RuleFile {
  std::string_view name;  // "alerts.yml"
  std::string_view text;
};
std::vector<RuleFile> PrometheusRules();

}  // namespace rollcall::cli
