#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace rollcall::model {

// "<field>: expected …, got …", INVALID_ARGUMENT.
absl::Status ExpectedError(std::string_view field, std::string_view expected,
                           const nlohmann::json& got);
// "<field>: … is not supported; supported: …", UNIMPLEMENTED.
absl::Status UnsupportedError(std::string_view field, const nlohmann::json& got,
                              std::string_view supported);

// Reads the fields of one JSON object; the first error wins and later reads do nothing. Absent
// fields leave their target as it is, and so does null except for Nullable….
class ConfigReader {
 public:
  using Json = nlohmann::json;
  // Far above any real model; keeps products of sizes inside int64.
  static constexpr int64_t kMaxSize = int64_t{1} << 24;

  // `prefix` goes before field names in errors. `object` must outlive the reader.
  ConfigReader(const Json& object, std::string prefix)
      : object_(object), prefix_(std::move(prefix)) {}

  bool Has(const char* field) const { return object_.contains(field) && !object_[field].is_null(); }
  bool Contains(const char* field) const { return object_.contains(field); }
  // Null where the field is absent.
  Json Get(const char* field) const { return Has(field) ? object_[field] : Json(); }
  const Json& object() const { return object_; }
  std::string Name(const char* field) const { return prefix_ + field; }

  void Integer(const char* field, bool required, int64_t low, int64_t* out);
  // A null is nullopt.
  void NullableInteger(const char* field, int64_t low, std::optional<int64_t>* out);
  // Above 0 and finite.
  void Positive(const char* field, bool required, double* out);
  void NullablePositive(const char* field, std::optional<double>* out);
  void PositiveList(const char* field, size_t count, std::vector<double>* out);
  void Bool(const char* field, bool* out);
  void Text(const char* field, std::string* out);

  // UNIMPLEMENTED where the field is there with another value than `only`.
  void RefuseUnless(const char* field, const Json& only);

  void Fail(const char* field, std::string_view expected);
  void Update(absl::Status status);
  const absl::Status& status() const { return status_; }

 private:
  bool Present(const char* field, bool required, std::string_view expected);

  const Json& object_;
  std::string prefix_;
  absl::Status status_;
};

}  // namespace rollcall::model
