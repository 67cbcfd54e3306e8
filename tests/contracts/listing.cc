#include "tests/contracts/listing.h"

#include "absl/strings/str_cat.h"
#include "rollcall/v1/options.pb.h"

namespace rollcall::contracts {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using google::protobuf::MethodDescriptor;
using google::protobuf::ServiceDescriptor;
using google::protobuf::SourceLocation;

std::string TypeOf(const FieldDescriptor& field) {
  if (field.is_map()) {
    return absl::StrCat("map<", TypeOf(*field.message_type()->map_key()), ", ",
                        TypeOf(*field.message_type()->map_value()), ">");
  }
  std::string type = field.type_name();
  if (field.message_type() != nullptr) type = field.message_type()->full_name();
  if (field.enum_type() != nullptr) type = field.enum_type()->full_name();
  if (field.is_repeated())
    return absl::StrCat("repeated ", type, field.is_packed() ? " packed" : "");
  // Presence of a message is not worth a word: it always has it.
  if (field.real_containing_oneof() == nullptr && field.has_presence() &&
      field.message_type() == nullptr) {
    return absl::StrCat("optional ", type);
  }
  return type;
}

std::string LineOf(const FieldDescriptor& field) {
  std::string line =
      absl::StrCat("field ", field.full_name(), " = ", field.number(), " ", TypeOf(field));
  if (const auto* oneof = field.real_containing_oneof())
    absl::StrAppend(&line, " in ", oneof->name());
  return line;
}

std::string LineOf(const MethodDescriptor& method) {
  return absl::StrCat("rpc ", method.full_name(), " ", method.client_streaming() ? "stream " : "",
                      method.input_type()->full_name(), " -> ",
                      method.server_streaming() ? "stream " : "",
                      method.output_type()->full_name());
}

void ListEnum(const EnumDescriptor& type, std::set<std::string>* lines) {
  for (int i = 0; i < type.value_count(); ++i) {
    lines->insert(absl::StrCat("value ", type.full_name(), ".", type.value(i)->name(), " = ",
                               type.value(i)->number()));
  }
}

void ListMessage(const Descriptor& type, std::set<std::string>* lines) {
  lines->insert(absl::StrCat("message ", type.full_name()));
  for (int i = 0; i < type.field_count(); ++i) lines->insert(LineOf(*type.field(i)));
  for (int i = 0; i < type.enum_type_count(); ++i) ListEnum(*type.enum_type(i), lines);
  for (int i = 0; i < type.nested_type_count(); ++i) {
    if (!type.nested_type(i)->options().map_entry()) ListMessage(*type.nested_type(i), lines);
  }
}

bool HasComment(const SourceLocation& location) {
  return !location.leading_comments.empty() || !location.trailing_comments.empty();
}

void FindInMessage(const Descriptor& type, std::vector<std::string>* found) {
  int covered_line = -1;  // last line of a field that is documented
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    SourceLocation location;
    const bool located = field.GetSourceLocation(&location);
    const bool documented =
        located && (HasComment(location) || location.start_line == covered_line + 1 ||
                    !field.options().GetExtension(v1::rules).doc().empty());
    if (documented) {
      covered_line = location.end_line;
    } else {
      found->push_back(field.full_name());
    }
  }
  for (int i = 0; i < type.nested_type_count(); ++i) {
    if (!type.nested_type(i)->options().map_entry()) FindInMessage(*type.nested_type(i), found);
  }
}

}  // namespace

std::set<std::string> ListContract(const std::vector<const FileDescriptor*>& files) {
  std::set<std::string> lines;
  for (const FileDescriptor* file : files) {
    for (int i = 0; i < file->message_type_count(); ++i) {
      ListMessage(*file->message_type(i), &lines);
    }
    for (int i = 0; i < file->enum_type_count(); ++i) ListEnum(*file->enum_type(i), &lines);
    for (int i = 0; i < file->extension_count(); ++i) lines.insert(LineOf(*file->extension(i)));
    for (int i = 0; i < file->service_count(); ++i) {
      const ServiceDescriptor& service = *file->service(i);
      for (int j = 0; j < service.method_count(); ++j) lines.insert(LineOf(*service.method(j)));
    }
  }
  return lines;
}

std::vector<std::string> FindUndocumented(const std::vector<const FileDescriptor*>& files) {
  std::vector<std::string> found;
  for (const FileDescriptor* file : files) {
    for (int i = 0; i < file->message_type_count(); ++i) {
      FindInMessage(*file->message_type(i), &found);
    }
    for (int i = 0; i < file->service_count(); ++i) {
      const ServiceDescriptor& service = *file->service(i);
      for (int j = 0; j < service.method_count(); ++j) {
        SourceLocation location;
        const bool located = service.method(j)->GetSourceLocation(&location);
        if (!located || !HasComment(location)) found.push_back(service.method(j)->full_name());
      }
    }
  }
  return found;
}

}  // namespace rollcall::contracts
