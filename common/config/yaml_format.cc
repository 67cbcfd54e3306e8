#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/config/field_rules.h"
#include "common/config/yaml.h"

namespace rollcall::config {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

std::string Indent(int depth) { return std::string(2 * depth, ' '); }

bool IsShown(const Message& message, const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  if (field.is_repeated()) return reflection.FieldSize(message, &field) > 0;
  if (field.has_presence()) return reflection.HasField(message, &field);
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
    return reflection.GetEnumValue(message, &field) != 0;  // "unspecified" cannot be written.
  }
  return true;
}

std::string Scalar(const Message& message, const FieldDescriptor& field, int index,
                   Secrets secrets) {
  std::string text = FormatScalar(message, field, index, /*quote_text=*/true);
  const bool hide = secrets == Secrets::kRedact && RulesOf(field).secret() && text != "\"\"";
  return hide ? "\"***\"" : text;
}

// The fields of `message`, one block each, every line but those that continue a list item indented
// by `depth`.
void Append(const Message& message, int depth, Secrets secrets, std::string* out);

// Entries of a map field by key, so that equal maps print equally.
std::vector<std::pair<std::string, const Message*>> SortedEntries(const Message& message,
                                                                  const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  std::vector<std::pair<std::string, const Message*>> entries;
  for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
    const Message& entry = reflection.GetRepeatedMessage(message, &field, i);
    entries.emplace_back(FormatScalar(entry, *field.message_type()->map_key(), -1, true), &entry);
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

void AppendMessage(const Message& message, int depth, Secrets secrets, std::string* out) {
  std::string body;
  Append(message, depth, secrets, &body);
  absl::StrAppend(out, body.empty() ? " {}\n" : "\n", body);
}

void AppendField(const Message& message, const FieldDescriptor& field, int depth, Secrets secrets,
                 std::string* out) {
  const Reflection& reflection = *message.GetReflection();
  const bool is_message = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
  absl::StrAppend(out, Indent(depth), field.name(), ":");
  if (field.is_map()) {
    *out += "\n";
    const FieldDescriptor& value = *field.message_type()->map_value();
    for (const auto& [key, entry] : SortedEntries(message, field)) {
      absl::StrAppend(out, Indent(depth + 1), key, ":");
      if (value.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        AppendMessage(entry->GetReflection()->GetMessage(*entry, &value), depth + 2, secrets, out);
      } else {
        absl::StrAppend(out, " ", Scalar(*entry, value, -1, secrets), "\n");
      }
    }
  } else if (field.is_repeated() && is_message) {
    *out += "\n";
    for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
      std::string body;
      Append(reflection.GetRepeatedMessage(message, &field, i), depth + 2, secrets, &body);
      // The first field stands behind the dash, which takes the place of its indentation.
      absl::StrAppend(out, Indent(depth + 1), "- ",
                      body.empty() ? "{}\n" : body.substr(Indent(depth + 2).size()));
    }
  } else if (field.is_repeated()) {
    *out += "\n";
    for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
      absl::StrAppend(out, Indent(depth + 1), "- ", Scalar(message, field, i, secrets), "\n");
    }
  } else if (is_message) {
    AppendMessage(reflection.GetMessage(message, &field), depth + 1, secrets, out);
  } else {
    absl::StrAppend(out, " ", Scalar(message, field, -1, secrets), "\n");
  }
}

void Append(const Message& message, int depth, Secrets secrets, std::string* out) {
  const Descriptor& type = *message.GetDescriptor();
  std::vector<const FieldDescriptor*> fields;
  for (int i = 0; i < type.field_count(); ++i) {
    if (IsShown(message, *type.field(i))) fields.push_back(type.field(i));
  }
  std::sort(fields.begin(), fields.end(), [](const FieldDescriptor* a, const FieldDescriptor* b) {
    return a->number() < b->number();
  });
  for (const FieldDescriptor* field : fields) AppendField(message, *field, depth, secrets, out);
}

}  // namespace

std::string FormatYaml(const Message& message, Secrets secrets) {
  std::string out;
  Append(message, 0, secrets, &out);
  return out.empty() ? "{}\n" : out;
}

}  // namespace rollcall::config
