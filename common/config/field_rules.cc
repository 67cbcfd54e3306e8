#include "common/config/field_rules.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace rollcall::config {
namespace {

using google::protobuf::EnumDescriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// LossAggregation -> LOSS_AGGREGATION_
std::string EnumPrefix(const EnumDescriptor& type) {
  std::string prefix;
  for (size_t i = 0; i < type.name().size(); ++i) {
    const char c = type.name()[i];
    if (i > 0 && absl::ascii_isupper(c)) prefix += '_';
    prefix += absl::ascii_toupper(c);
  }
  return prefix + "_";
}

template <typename T>
std::string ShortestNumber(T value) {
  char buffer[64];
  const auto result = std::to_chars(buffer, buffer + sizeof(buffer), value);
  return std::string(buffer, result.ptr);
}

// The whole of `text` as a decimal integer; the sign of an unsigned one makes it fail.
template <typename T>
std::optional<T> ParseInteger(const std::string& text) {
  const char* begin = text.data();
  const char* const end = begin + text.size();
  if (begin != end && *begin == '+') ++begin;
  T value;
  const auto result = std::from_chars(begin, end, value);
  if (result.ec != std::errc() || result.ptr != end || (begin != text.data() && *begin == '-')) {
    return std::nullopt;
  }
  return value;
}

template <typename T>
std::optional<T> ParseReal(const std::string& text) {
  const char* begin = text.data();
  const char* const end = begin + text.size();
  if (begin != end && *begin == '+') ++begin;
  T value;
  const auto result = std::from_chars(begin, end, value);
  if (result.ec == std::errc::result_out_of_range) {
    // Too small is as good as 0 or a subnormal; too large is not a number anyone meant.
    double wide = 0;
    if (!absl::SimpleAtod(text, &wide) || std::abs(wide) > 1) return std::nullopt;
    return static_cast<T>(wide);
  }
  if (result.ec != std::errc() || result.ptr != end || (begin != text.data() && *begin == '-') ||
      !std::isfinite(value)) {
    return std::nullopt;
  }
  return value;
}

const EnumValueDescriptor* FindEnum(const EnumDescriptor& type, const std::string& name) {
  for (int i = 0; i < type.value_count(); ++i) {
    const EnumValueDescriptor* value = type.value(i);
    if (value->number() != 0 && EnumName(*value) == name) return value;
  }
  return nullptr;
}

// Sets or adds `value` by the reflection call of its type.
template <typename T>
bool Put(const std::optional<T>& value, const FieldDescriptor& field, Message* message,
         void (Reflection::*set)(Message*, const FieldDescriptor*, T) const,
         void (Reflection::*add)(Message*, const FieldDescriptor*, T) const) {
  if (!value) return false;
  (message->GetReflection()->*(field.is_repeated() ? add : set))(message, &field, *value);
  return true;
}

}  // namespace

const v1::FieldRules& RulesOf(const FieldDescriptor& field) {
  return field.options().GetExtension(v1::rules);
}

std::string EnumName(const EnumValueDescriptor& value) {
  const std::string prefix = EnumPrefix(*value.type());
  const std::string& name = value.name();
  const bool prefixed = name.size() > prefix.size() && name.compare(0, prefix.size(), prefix) == 0;
  return absl::AsciiStrToLower(prefixed ? name.substr(prefix.size()) : name);
}

std::vector<std::string> EnumNames(const EnumDescriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.value_count(); ++i) {
    if (type.value(i)->number() != 0) names.push_back(EnumName(*type.value(i)));
  }
  return names;
}

std::string ExpectedValue(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64:
      return "an integer";
    case FieldDescriptor::CPPTYPE_UINT32:
      return absl::StrCat("an integer from 0 to ", std::numeric_limits<uint32_t>::max());
    case FieldDescriptor::CPPTYPE_UINT64:
      return absl::StrCat("an integer from 0 to ", std::numeric_limits<uint64_t>::max());
    case FieldDescriptor::CPPTYPE_FLOAT:
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return "a finite number";
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true or false";
    case FieldDescriptor::CPPTYPE_ENUM:
      return absl::StrCat("one of ", absl::StrJoin(EnumNames(*field.enum_type()), ", "));
    case FieldDescriptor::CPPTYPE_STRING:
      return "text";
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return "a section";
  }
  return "a value";
}

std::string BoundsText(const FieldDescriptor& field) {
  const v1::FieldRules& rules = RulesOf(field);
  const bool counts = field.is_repeated() || field.cpp_type() == FieldDescriptor::CPPTYPE_STRING;
  std::vector<std::string> parts;
  if (rules.has_min()) {
    parts.push_back(absl::StrCat(counts                  ? "at least "
                                 : rules.min_exclusive() ? "> "
                                                         : ">= ",
                                 ShortestNumber(rules.min())));
  }
  if (rules.has_max()) {
    parts.push_back(absl::StrCat(counts                  ? "at most "
                                 : rules.max_exclusive() ? "< "
                                                         : "<= ",
                                 ShortestNumber(rules.max())));
  }
  if (parts.empty()) return "";
  const char* noun = !counts ? "" : field.is_repeated() ? " entries" : " bytes";
  return absl::StrCat(absl::StrJoin(parts, " and "), noun);
}

bool WithinBounds(const v1::FieldRules& rules, double value) {
  if (rules.has_min() && (rules.min_exclusive() ? value <= rules.min() : value < rules.min())) {
    return false;
  }
  if (rules.has_max() && (rules.max_exclusive() ? value >= rules.max() : value > rules.max())) {
    return false;
  }
  return true;
}

bool ParseScalar(const std::string& text, const FieldDescriptor& field, Message* message) {
  const Reflection* reflection = message->GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return Put(ParseInteger<int32_t>(text), field, message, &Reflection::SetInt32,
                 &Reflection::AddInt32);
    case FieldDescriptor::CPPTYPE_INT64:
      return Put(ParseInteger<int64_t>(text), field, message, &Reflection::SetInt64,
                 &Reflection::AddInt64);
    case FieldDescriptor::CPPTYPE_UINT32:
      return Put(ParseInteger<uint32_t>(text), field, message, &Reflection::SetUInt32,
                 &Reflection::AddUInt32);
    case FieldDescriptor::CPPTYPE_UINT64:
      return Put(ParseInteger<uint64_t>(text), field, message, &Reflection::SetUInt64,
                 &Reflection::AddUInt64);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return Put(ParseReal<float>(text), field, message, &Reflection::SetFloat,
                 &Reflection::AddFloat);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return Put(ParseReal<double>(text), field, message, &Reflection::SetDouble,
                 &Reflection::AddDouble);
    case FieldDescriptor::CPPTYPE_BOOL: {
      std::optional<bool> value;
      if (text == "true" || text == "True") value = true;
      if (text == "false" || text == "False") value = false;
      return Put(value, field, message, &Reflection::SetBool, &Reflection::AddBool);
    }
    case FieldDescriptor::CPPTYPE_ENUM: {
      const EnumValueDescriptor* value = FindEnum(*field.enum_type(), text);
      return Put(value == nullptr ? std::nullopt : std::optional(value->number()), field, message,
                 &Reflection::SetEnumValue, &Reflection::AddEnumValue);
    }
    case FieldDescriptor::CPPTYPE_STRING:
      if (field.is_repeated()) {
        reflection->AddString(message, &field, text);
      } else {
        reflection->SetString(message, &field, text);
      }
      return true;
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return false;
  }
  return false;
}

std::string FormatScalar(const Message& message, const FieldDescriptor& field, int index,
                         bool quote_text) {
  const Reflection& r = *message.GetReflection();
  const bool many = field.is_repeated();
  const FieldDescriptor* f = &field;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return absl::StrCat(many ? r.GetRepeatedInt32(message, f, index) : r.GetInt32(message, f));
    case FieldDescriptor::CPPTYPE_INT64:
      return absl::StrCat(many ? r.GetRepeatedInt64(message, f, index) : r.GetInt64(message, f));
    case FieldDescriptor::CPPTYPE_UINT32:
      return absl::StrCat(many ? r.GetRepeatedUInt32(message, f, index) : r.GetUInt32(message, f));
    case FieldDescriptor::CPPTYPE_UINT64:
      return absl::StrCat(many ? r.GetRepeatedUInt64(message, f, index) : r.GetUInt64(message, f));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return ShortestNumber(many ? r.GetRepeatedFloat(message, f, index) : r.GetFloat(message, f));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return ShortestNumber(many ? r.GetRepeatedDouble(message, f, index)
                                 : r.GetDouble(message, f));
    case FieldDescriptor::CPPTYPE_BOOL:
      return (many ? r.GetRepeatedBool(message, f, index) : r.GetBool(message, f)) ? "true"
                                                                                   : "false";
    case FieldDescriptor::CPPTYPE_ENUM:
      return EnumName(many ? *r.GetRepeatedEnum(message, f, index) : *r.GetEnum(message, f));
    case FieldDescriptor::CPPTYPE_STRING: {
      const std::string text =
          many ? r.GetRepeatedString(message, f, index) : r.GetString(message, f);
      return quote_text ? QuoteYaml(text) : text;
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      break;
  }
  return "";
}

std::string QuoteYaml(const std::string& text) {
  // Words that some YAML reader takes for something else than text.
  static const auto* const kReserved = new std::vector<std::string>{
      "null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"};
  const bool plain =
      !text.empty() && absl::ascii_isalpha(text[0]) &&
      std::all_of(text.begin(), text.end(),
                  [](char c) {
                    return absl::ascii_isalnum(c) || c == '_' || c == '.' || c == '/' || c == '-';
                  }) &&
      std::find(kReserved->begin(), kReserved->end(), absl::AsciiStrToLower(text)) ==
          kReserved->end();
  if (plain) return text;
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      absl::StrAppend(&quoted, "\\", std::string(1, c));
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (c == '\t') {
      quoted += "\\t";
    } else if (absl::ascii_iscntrl(c)) {
      absl::StrAppend(&quoted, "\\x", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

std::optional<std::string> NearestName(const std::string& name,
                                       const std::vector<std::string>& candidates) {
  if (name.size() > 64) return std::nullopt;  // Not a slip of the finger.
  std::optional<std::string> nearest;
  size_t least = std::max<size_t>(2, name.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    // Optimal string alignment: a swap of neighbours, the commonest slip, is one edit.
    std::vector<size_t> before, above, row(candidate.size() + 1);
    for (size_t j = 0; j < row.size(); ++j) row[j] = j;
    for (size_t i = 1; i <= name.size(); ++i) {
      before = std::move(above);
      above = row;
      row[0] = i;
      for (size_t j = 1; j <= candidate.size(); ++j) {
        const size_t substituted = above[j - 1] + (name[i - 1] != candidate[j - 1]);
        row[j] = std::min({above[j] + 1, row[j - 1] + 1, substituted});
        if (i > 1 && j > 1 && name[i - 1] == candidate[j - 2] && name[i - 2] == candidate[j - 1]) {
          row[j] = std::min(row[j], before[j - 2] + 1);
        }
      }
    }
    if (row.back() < least && row.back() < candidate.size()) {
      least = row.back();
      nearest = candidate;
    }
  }
  return nearest;
}

}  // namespace rollcall::config
