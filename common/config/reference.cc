#include "common/config/reference.h"

#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/config/field_rules.h"

namespace rollcall::config {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

bool IsSection(const FieldDescriptor& field) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field.is_map();
}

std::string TypeText(const FieldDescriptor& field) {
  std::string type = ExpectedValue(field);
  if (field.is_map()) return "a section of names and values";
  return field.is_repeated() ? absl::StrCat("a list of ", IsSection(field) ? "sections" : type)
                             : type;
}

std::string DefaultText(const FieldDescriptor& field) {
  const v1::FieldRules& rules = RulesOf(field);
  if (rules.required()) return "required";
  if (field.is_repeated()) return "empty";
  if (IsSection(field)) return "";
  if (!rules.default_value().empty()) return rules.default_value();
  if (field.has_presence()) return "unset";
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) return "empty";
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_BOOL) return "false";
  return "0";
}

// "number > 0, default 60, in seconds"
std::string Summary(const FieldDescriptor& field) {
  std::string text = TypeText(field);
  const std::string bounds = BoundsText(field);
  const std::string default_text = DefaultText(field);
  if (!bounds.empty()) absl::StrAppend(&text, ", ", bounds);
  if (default_text == "required") {
    text += ", required";
  } else if (!default_text.empty()) {
    absl::StrAppend(&text, ", default ", default_text);
  }
  if (!RulesOf(field).unit().empty()) absl::StrAppend(&text, ", in ", RulesOf(field).unit());
  return text;
}

std::string ListFields(const Descriptor& type) {
  std::string text;
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    absl::StrAppend(&text, "  ", field.name(), ": ", Summary(field), "\n");
    if (!RulesOf(field).doc().empty()) absl::StrAppend(&text, "      ", RulesOf(field).doc(), "\n");
  }
  return text;
}

std::string Cell(const std::string& text) {
  return absl::StrReplaceAll(text, {{"|", "\\|"}, {"\n", " "}, {"<", "&lt;"}});
}

void AppendSection(const std::string& path, const Descriptor& type,
                   std::vector<const Descriptor*>* done, std::string* out) {
  for (const Descriptor* earlier : *done) {
    if (earlier == &type) return;  // Used in two places: documented at the first.
  }
  done->push_back(&type);
  absl::StrAppend(out, "## ", path.empty() ? type.name() : absl::StrCat("`", path, "`"),
                  "\n\n| field | value | default | bounds | unit | meaning |\n"
                  "| --- | --- | --- | --- | --- | --- |\n");
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const std::string default_text = DefaultText(field);
    absl::StrAppend(out, "| `", field.name(), "` | ", Cell(TypeText(field)), " | ",
                    default_text.empty() ? "" : absl::StrCat("`", Cell(default_text), "`"), " | ",
                    Cell(BoundsText(field)), " | ", RulesOf(field).unit(), " | ",
                    Cell(RulesOf(field).doc()), " |\n");
  }
  *out += "\n";
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (!IsSection(field)) continue;
    AppendSection(
        absl::StrCat(path, path.empty() ? "" : ".", field.name(), field.is_repeated() ? "[]" : ""),
        *field.message_type(), done, out);
  }
}

}  // namespace

absl::StatusOr<std::string> FieldHelp(const Descriptor& schema, std::string_view path) {
  const Descriptor* type = &schema;
  if (path.empty()) return ListFields(schema);
  const std::vector<std::string> steps = absl::StrSplit(std::string(path), '.');
  std::string walked;
  for (size_t i = 0; i < steps.size(); ++i) {
    const std::string name = steps[i].substr(0, steps[i].find('['));
    const FieldDescriptor* field = type->FindFieldByName(name);
    if (field == nullptr) {
      std::vector<std::string> names;
      for (int j = 0; j < type->field_count(); ++j) names.push_back(type->field(j)->name());
      const std::optional<std::string> nearest = NearestName(name, names);
      return absl::NotFoundError(
          absl::StrCat(walked, walked.empty() ? "" : ".", name, ": unknown field",
                       nearest ? absl::StrCat("; did you mean ", *nearest, "?") : ""));
    }
    absl::StrAppend(&walked, walked.empty() ? "" : ".", name);
    if (i + 1 == steps.size()) {
      std::string text = absl::StrCat(walked, ": ", Summary(*field), "\n");
      if (!RulesOf(*field).doc().empty()) absl::StrAppend(&text, RulesOf(*field).doc(), "\n");
      if (IsSection(*field)) text += ListFields(*field->message_type());
      return text;
    }
    if (!IsSection(*field)) {
      return absl::NotFoundError(
          absl::StrCat(walked, " is ", TypeText(*field), ": it has no field ", steps[i + 1]));
    }
    type = field->message_type();
  }
  return ListFields(*type);
}

std::string DocumentMarkdown(const Descriptor& schema) {
  std::string out;
  std::vector<const Descriptor*> done;
  AppendSection("", schema, &done, &out);
  return out;
}

}  // namespace rollcall::config
