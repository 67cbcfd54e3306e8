#include "common/model/config_reader.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace rollcall::model {
namespace {

using Json = nlohmann::json;

bool IsPositive(const Json& value) {
  return value.is_number() && value.get<double>() > 0 && std::isfinite(value.get<double>());
}

// The value as JSON; of a long one the beginning, in whole characters.
std::string Shown(const Json& value) {
  constexpr size_t kLongest = 200;
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() <= kLongest) return text;
  size_t end = kLongest;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end) + "…";
}

}  // namespace

absl::Status ExpectedError(std::string_view field, std::string_view expected, const Json& got) {
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(field), ": expected ", std::string(expected), ", got ", Shown(got)));
}

absl::Status UnsupportedError(std::string_view field, const Json& got, std::string_view supported) {
  return absl::UnimplementedError(
      absl::StrCat(std::string(field), ": ", Shown(got),
                   " is not supported; supported: ", std::string(supported)));
}

void ConfigReader::Integer(const char* field, bool required, int64_t low, int64_t* out) {
  if (!Present(field, required, "an integer")) return;
  const Json& value = object_[field];
  if (!value.is_number_integer() || value < low || value > kMaxSize) {
    return Fail(field, absl::StrCat("an integer from ", low, " to ", kMaxSize));
  }
  *out = value.get<int64_t>();
}

void ConfigReader::NullableInteger(const char* field, int64_t low, std::optional<int64_t>* out) {
  if (!Contains(field)) return;
  if (object_[field].is_null()) return out->reset();
  int64_t value = 0;
  Integer(field, true, low, &value);
  *out = value;
}

void ConfigReader::Positive(const char* field, bool required, double* out) {
  if (!Present(field, required, "a number")) return;
  if (!IsPositive(object_[field])) return Fail(field, "a number above 0");
  *out = object_[field].get<double>();
}

void ConfigReader::NullablePositive(const char* field, std::optional<double>* out) {
  if (!Contains(field)) return;
  if (object_[field].is_null()) return out->reset();
  double value = 0;
  Positive(field, true, &value);
  *out = value;
}

void ConfigReader::PositiveList(const char* field, size_t count, std::vector<double>* out) {
  const std::string expected = absl::StrCat("a list of ", count, " numbers above 0");
  if (!Present(field, true, expected)) return;
  const Json& list = object_[field];
  if (!list.is_array() || list.size() != count) return Fail(field, expected);
  out->clear();
  for (const Json& value : list) {
    if (!IsPositive(value)) return Fail(field, expected);
    out->push_back(value.get<double>());
  }
}

void ConfigReader::Bool(const char* field, bool* out) {
  if (!Present(field, false, "true or false")) return;
  if (!object_[field].is_boolean()) return Fail(field, "true or false");
  *out = object_[field].get<bool>();
}

void ConfigReader::Text(const char* field, std::string* out) {
  if (!Present(field, false, "a string")) return;
  if (!object_[field].is_string()) return Fail(field, "a string");
  *out = object_[field].get<std::string>();
}

void ConfigReader::RefuseUnless(const char* field, const Json& only) {
  if (Has(field) && object_[field] != only) {
    Update(UnsupportedError(Name(field), object_[field], only.dump()));
  }
}

void ConfigReader::Fail(const char* field, std::string_view expected) {
  Update(ExpectedError(Name(field), expected, Get(field)));
}

void ConfigReader::Update(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

bool ConfigReader::Present(const char* field, bool required, std::string_view expected) {
  if (!status_.ok()) return false;
  if (Has(field)) return true;
  if (required) {
    Update(absl::InvalidArgumentError(
        absl::StrCat(Name(field), ": expected ", std::string(expected), ", got nothing")));
  }
  return false;
}

}  // namespace rollcall::model
