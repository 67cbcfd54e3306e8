#include "services/learner/data/column_path.h"

namespace rollcall::learner {

const nlohmann::json* FindColumn(const nlohmann::json& row, const std::string& name) {
  if (!row.is_object()) return nullptr;
  if (const auto whole = row.find(name); whole != row.end()) return &*whole;
  const size_t dot = name.find('.');
  if (dot == std::string::npos) return nullptr;
  const auto outer = row.find(name.substr(0, dot));
  return outer == row.end() ? nullptr : FindColumn(*outer, name.substr(dot + 1));
}

}  // namespace rollcall::learner
