#include "services/learner/data/struct_columns.h"

#include <cstdint>

#include "common/base/status.h"

namespace rollcall::learner {
namespace {

constexpr int kMaxDepth = 64;
// Every integer up to 2^53 is a float64.
constexpr uint64_t kMaxExactInteger = uint64_t{1} << 53;

bool IsExact(const nlohmann::json& number) {
  if (number.is_number_unsigned()) return number.get<uint64_t>() <= kMaxExactInteger;
  if (!number.is_number_integer()) return true;
  return number.get<int64_t>() >= -static_cast<int64_t>(kMaxExactInteger);
}

absl::Status Fill(const RowPlace& place, std::string_view column, const nlohmann::json& from,
                  int depth, google::protobuf::Value* to) {
  if (depth > kMaxDepth) return place.WrongColumn(column, "at most 64 levels of nesting", from);
  if (from.is_null()) {
    to->set_null_value(google::protobuf::NULL_VALUE);
  } else if (from.is_boolean()) {
    to->set_bool_value(from.get<bool>());
  } else if (from.is_number()) {
    if (!IsExact(from)) {
      return place.WrongColumn(column, "a number that float64 holds exactly (or a string)", from);
    }
    to->set_number_value(from.get<double>());
  } else if (from.is_string()) {
    to->set_string_value(from.get<std::string>());
  } else if (from.is_array()) {
    auto* list = to->mutable_list_value();
    for (const auto& element : from) {
      ROLLCALL_RETURN_IF_ERROR(Fill(place, column, element, depth + 1, list->add_values()));
    }
  } else {
    auto& fields = *to->mutable_struct_value()->mutable_fields();
    for (const auto& [key, element] : from.items()) {
      ROLLCALL_RETURN_IF_ERROR(Fill(place, column, element, depth + 1, &fields[key]));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<google::protobuf::Struct> ColumnsOf(const RowPlace& place, const nlohmann::json& row,
                                                   const std::set<std::string>& left_out) {
  google::protobuf::Struct columns;
  for (const auto& [name, value] : row.items()) {
    if (left_out.contains(name)) continue;
    ROLLCALL_RETURN_IF_ERROR(Fill(place, name, value, 1, &(*columns.mutable_fields())[name]));
  }
  return columns;
}

}  // namespace rollcall::learner
