#include "services/reward/rules/column.h"

#include <google/protobuf/struct.pb.h>

#include <charconv>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace rollcall::reward {
namespace {

using google::protobuf::Value;

// Longest extract that a person still reads in a record.
constexpr size_t kMaxDetailBytes = 200;

// 42 for 42.0: JSON has one number type, and data files mean integers by whole ones.
std::string NumberText(double number) {
  char buffer[64];
  const bool is_whole = std::abs(number) < 1e15 && number == std::trunc(number);
  const auto end =
      is_whole ? std::to_chars(buffer, buffer + sizeof(buffer), static_cast<long long>(number))
               : std::to_chars(buffer, buffer + sizeof(buffer), number);
  return std::string(buffer, end.ptr);
}

std::optional<std::string> ScalarText(const Value& value) {
  switch (value.kind_case()) {
    case Value::kStringValue:
      return value.string_value();
    case Value::kNumberValue:
      return NumberText(value.number_value());
    case Value::kBoolValue:
      return value.bool_value() ? "true" : "false";
    default:
      return std::nullopt;
  }
}

// nullptr: there is none of that name.
const Value* FindColumn(const google::protobuf::Struct& columns, const std::string& name) {
  const auto whole = columns.fields().find(name);
  if (whole != columns.fields().end()) return &whole->second;
  const size_t dot = name.find('.');
  if (dot == std::string::npos) return nullptr;
  const auto outer = columns.fields().find(name.substr(0, dot));
  if (outer == columns.fields().end() || !outer->second.has_struct_value()) return nullptr;
  return FindColumn(outer->second.struct_value(), name.substr(dot + 1));
}

}  // namespace

std::optional<std::vector<std::string>> TextsOfColumn(const v1::VerifierGroup& group,
                                                      const std::string& column,
                                                      v1::SampleResult* result) {
  const Value* found = FindColumn(group.columns(), column);
  if (found == nullptr) {
    result->mutable_error()->set_reason(absl::StrCat("the data row has no column ", column));
    return std::nullopt;
  }
  const Value& value = *found;
  if (value.kind_case() == Value::kNullValue) {
    result->mutable_abstain()->set_reason(absl::StrCat("column ", column, " is null"));
    return std::nullopt;
  }
  std::vector<std::string> texts;
  bool is_text = true;
  if (value.kind_case() == Value::kListValue) {
    for (const Value& element : value.list_value().values()) {
      std::optional<std::string> text = ScalarText(element);
      is_text = is_text && text.has_value();
      if (text) texts.push_back(*std::move(text));
    }
  } else {
    std::optional<std::string> text = ScalarText(value);
    is_text = text.has_value();
    if (text) texts.push_back(*std::move(text));
  }
  if (!is_text) {
    result->mutable_error()->set_reason(
        absl::StrCat("column ", column, " holds neither a text, a number nor a list of those"));
    return std::nullopt;
  }
  return texts;
}

std::optional<std::string> TextOfColumn(const v1::VerifierGroup& group, const std::string& column,
                                        v1::SampleResult* result) {
  std::optional<std::vector<std::string>> texts = TextsOfColumn(group, column, result);
  if (!texts) return std::nullopt;
  if (FindColumn(group.columns(), column)->has_list_value()) {
    result->mutable_error()->set_reason(
        absl::StrCat("column ", column, " holds a list, one text is expected"));
    return std::nullopt;
  }
  return std::move(texts->front());
}

std::string_view StripSpace(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\f\v";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

std::string CutUtf8(std::string_view text, size_t bytes) {
  if (text.size() > bytes) {
    while (bytes > 0 && (static_cast<unsigned char>(text[bytes]) & 0xc0) == 0x80) --bytes;
    text = text.substr(0, bytes);
  }
  return std::string(text);
}

void SetCorrect(bool correct, std::string_view detail, v1::SampleResult* result) {
  v1::Score* score = result->mutable_score();
  score->set_value(correct ? 1 : 0);
  (*score->mutable_components())["correct"] = correct ? 1 : 0;
  score->set_detail(CutUtf8(detail, kMaxDetailBytes));
}

}  // namespace rollcall::reward
