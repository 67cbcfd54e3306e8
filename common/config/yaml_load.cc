#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/config/field_rules.h"
#include "common/config/yaml.h"
#include "common/config/yaml_tree.h"

namespace rollcall::config {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::OneofDescriptor;
using google::protobuf::Reflection;

// Past this many a reader fixes the first ones and tries again.
constexpr size_t kMaxErrors = 20;

std::string Join(const std::string& path, const std::string& name) {
  return path.empty() ? name : absl::StrCat(path, ".", name);
}

std::string Indexed(const std::string& path, int index) {
  return absl::StrCat(path, "[", index, "]");
}

// Moves a document into a message and completes it; gathers everything that is wrong with it.
class Loader {
 public:
  Loader(std::string name, Origins* origins) : name_(std::move(name)), origins_(*origins) {}

  void Bind(const YamlNode& node, const std::string& path, Message* message);
  void ApplyDefaults(const std::string& path, Message* message);
  void Validate(const std::string& path, bool enforce_required,
                std::span<const std::string_view> required_in, const Message& message);
  absl::Status Result() const;

 private:
  void BindField(const YamlNode& node, const std::string& path, const FieldDescriptor& field,
                 Message* message);
  void BindList(const YamlNode& node, const std::string& path, const FieldDescriptor& field,
                Message* message);
  void BindMap(const YamlNode& node, const std::string& path, const FieldDescriptor& field,
               Message* message);
  void BindScalar(const YamlNode& node, const std::string& path, const FieldDescriptor& field,
                  Message* message);
  void ValidateField(const std::string& path, bool enforce_required, const FieldDescriptor& field,
                     const Message& message);
  // An override's text where the schema wants a list or a section: its YAML. nullopt after
  // reporting an error.
  std::optional<YamlNode> Reread(const YamlNode& node, const std::string& path);
  void Unknown(const YamlNode& node, const std::string& path, const std::string& key,
               const Descriptor& type);

  void Error(const std::string& origin, const std::string& path, const std::string& what) {
    errors_.push_back(absl::StrCat(origin, ": ", path, path.empty() ? "" : ": ", what));
  }
  // Where `path`, or the nearest thing around it, was written.
  std::string OriginOf(std::string path) const;

  const std::string name_;
  Origins& origins_;
  std::vector<std::string> errors_;
  std::vector<const Descriptor*> open_types_;
};

std::string Loader::OriginOf(std::string path) const {
  while (true) {
    const auto it = origins_.find(path);
    if (it != origins_.end()) return it->second;
    const size_t cut = path.find_last_of(".[");
    if (cut == std::string::npos) return name_;
    path.resize(cut);
  }
}

std::optional<YamlNode> Loader::Reread(const YamlNode& node, const std::string& path) {
  absl::StatusOr<YamlNode> tree = ParseYamlTree(node.scalar, node.origin);
  if (!tree.ok()) {
    Error(node.origin, path, std::string(tree.status().message()));
    return std::nullopt;
  }
  return *std::move(tree);
}

void Loader::Unknown(const YamlNode& node, const std::string& path, const std::string& key,
                     const Descriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.field_count(); ++i) names.push_back(type.field(i)->name());
  const std::optional<std::string> nearest = NearestName(key, names);
  Error(node.origin, Join(path, key),
        nearest ? absl::StrCat("unknown field; did you mean ", *nearest, "?")
                : absl::StrCat("unknown field; expected one of ", absl::StrJoin(names, ", ")));
}

void Loader::Bind(const YamlNode& node, const std::string& path, Message* message) {
  if (node.style == YamlNode::Style::kRaw && node.kind == YamlNode::Kind::kScalar) {
    if (const std::optional<YamlNode> tree = Reread(node, path)) Bind(*tree, path, message);
    return;
  }
  if (node.kind == YamlNode::Kind::kNull) return;  // `section:` with nothing under it.
  if (node.kind != YamlNode::Kind::kMap) {
    Error(node.origin, path, absl::StrCat("expected a section, got ", node.Describe()));
    return;
  }
  const Descriptor& type = *message->GetDescriptor();
  std::map<const OneofDescriptor*, const YamlNode*> chosen;
  for (size_t i = 0; i < node.keys.size(); ++i) {
    const std::string& key = node.keys[i];
    const YamlNode& value = node.values[i];
    const FieldDescriptor* field = type.FindFieldByName(key);
    if (field == nullptr) {
      Unknown(value, path, key, type);
      continue;
    }
    if (const OneofDescriptor* oneof = field->real_containing_oneof()) {
      const auto [earlier, is_first] = chosen.emplace(oneof, &value);
      if (!is_first) {
        const FieldDescriptor* other =
            message->GetReflection()->GetOneofFieldDescriptor(*message, oneof);
        Error(value.origin, Join(path, key),
              absl::StrCat("only one ", oneof->name(), " may be given, and ",
                           other == nullptr ? "another" : other->name(), " is at ",
                           earlier->second->origin));
        continue;
      }
    }
    BindField(value, Join(path, key), *field, message);
  }
}

void Loader::BindField(const YamlNode& node, const std::string& path, const FieldDescriptor& field,
                       Message* message) {
  origins_[path] = node.origin;
  if (field.is_map()) {
    BindMap(node, path, field, message);
  } else if (field.is_repeated()) {
    BindList(node, path, field, message);
  } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    Bind(node, path, message->GetReflection()->MutableMessage(message, &field));
  } else {
    BindScalar(node, path, field, message);
  }
}

void Loader::BindList(const YamlNode& node, const std::string& path, const FieldDescriptor& field,
                      Message* message) {
  if (node.style == YamlNode::Style::kRaw && node.kind == YamlNode::Kind::kScalar) {
    if (const std::optional<YamlNode> tree = Reread(node, path)) {
      const bool is_empty = tree->kind == YamlNode::Kind::kMap && tree->keys.empty();
      if (!is_empty) BindList(*tree, path, field, message);
    }
    return;
  }
  if (node.kind == YamlNode::Kind::kNull) return;
  if (node.kind != YamlNode::Kind::kList) {
    Error(node.origin, path,
          absl::StrCat("expected a list (of ", ExpectedValue(field), "), got ", node.Describe()));
    return;
  }
  for (size_t i = 0; i < node.values.size(); ++i) {
    const YamlNode& value = node.values[i];
    const std::string element = Indexed(path, static_cast<int>(i));
    origins_[element] = value.origin;
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      Bind(value, element, message->GetReflection()->AddMessage(message, &field));
    } else {
      BindScalar(value, element, field, message);
    }
  }
}

void Loader::BindMap(const YamlNode& node, const std::string& path, const FieldDescriptor& field,
                     Message* message) {
  if (node.style == YamlNode::Style::kRaw && node.kind == YamlNode::Kind::kScalar) {
    if (const std::optional<YamlNode> tree = Reread(node, path)) {
      BindMap(*tree, path, field, message);
    }
    return;
  }
  if (node.kind == YamlNode::Kind::kNull) return;
  if (node.kind != YamlNode::Kind::kMap) {
    Error(node.origin, path, absl::StrCat("expected a section, got ", node.Describe()));
    return;
  }
  const FieldDescriptor& key_field = *field.message_type()->map_key();
  const FieldDescriptor& value_field = *field.message_type()->map_value();
  for (size_t i = 0; i < node.keys.size(); ++i) {
    // Through the repeated view of the map: an entry is a message of key and value.
    Message* entry = message->GetReflection()->AddMessage(message, &field);
    if (!ParseScalar(node.keys[i], key_field, entry)) {
      Error(node.values[i].origin, path,
            absl::StrCat("expected ", ExpectedValue(key_field), " as the key, got \"", node.keys[i],
                         "\""));
    }
    BindField(node.values[i], Join(path, node.keys[i]), value_field, entry);
  }
}

void Loader::BindScalar(const YamlNode& node, const std::string& path, const FieldDescriptor& field,
                        Message* message) {
  const bool is_text = field.cpp_type() == FieldDescriptor::CPPTYPE_STRING;
  if (node.kind == YamlNode::Kind::kScalar && (node.style != YamlNode::Style::kQuoted || is_text) &&
      ParseScalar(node.scalar, field, message)) {
    return;
  }
  Error(node.origin, path,
        absl::StrCat("expected ", ExpectedValue(field), ", got ", node.Describe()));
}

// Presence of proto3 scalars is not stored, so what was written is known from origins_.
void Loader::ApplyDefaults(const std::string& path, Message* message) {
  const Descriptor& type = *message->GetDescriptor();
  const Reflection& reflection = *message->GetReflection();
  open_types_.push_back(&type);
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const std::string field_path = Join(path, field.name());
    if (field.is_map()) continue;
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (field.is_repeated()) {
        for (int j = 0; j < reflection.FieldSize(*message, &field); ++j) {
          ApplyDefaults(Indexed(field_path, j),
                        reflection.MutableRepeatedMessage(message, &field, j));
        }
        continue;
      }
      const bool is_recursive = std::find(open_types_.begin(), open_types_.end(),
                                          field.message_type()) != open_types_.end();
      const bool on_demand = field.real_containing_oneof() != nullptr || is_recursive;
      if (on_demand && !reflection.HasField(*message, &field)) continue;
      ApplyDefaults(field_path, reflection.MutableMessage(message, &field));
      continue;
    }
    const std::string& text = RulesOf(field).default_value();
    if (field.is_repeated() || text.empty() || field.real_containing_oneof() != nullptr ||
        origins_.count(field_path) != 0) {
      continue;
    }
    if (!ParseScalar(text, field, message)) {
      Error("schema", field_path, absl::StrCat("its default \"", text, "\" is not a value"));
    }
  }
  open_types_.pop_back();
}

void Loader::Validate(const std::string& path, bool enforce_required,
                      std::span<const std::string_view> required_in, const Message& message) {
  const Descriptor& type = *message.GetDescriptor();
  const Reflection& reflection = *message.GetReflection();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const std::string field_path = Join(path, field.name());
    const bool enforced = enforce_required &&
                          (required_in.empty() || std::find(required_in.begin(), required_in.end(),
                                                            field.name()) != required_in.end());
    ValidateField(field_path, enforced, field, message);
    if (field.is_map() || field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) continue;
    if (field.is_repeated()) {
      for (int j = 0; j < reflection.FieldSize(message, &field); ++j) {
        Validate(Indexed(field_path, j), enforced, {},
                 reflection.GetRepeatedMessage(message, &field, j));
      }
    } else if (reflection.HasField(message, &field)) {
      Validate(field_path, enforced, {}, reflection.GetMessage(message, &field));
    }
  }
}

void Loader::ValidateField(const std::string& path, bool enforce_required,
                           const FieldDescriptor& field, const Message& message) {
  const v1::FieldRules& rules = RulesOf(field);
  const Reflection& reflection = *message.GetReflection();
  const int size = field.is_repeated() ? reflection.FieldSize(message, &field) : 0;
  const bool is_set = field.is_repeated() ? size > 0 : reflection.HasField(message, &field);
  if (rules.required() && !is_set) {
    if (enforce_required) Error(OriginOf(path), path, "required, and not given");
    return;
  }
  // An unset optional, or text that was left empty, is "none" and has no bounds.
  if (!rules.has_min() && !rules.has_max()) return;
  double measure = size;
  std::string shown = absl::StrCat(size, size == 1 ? " entry" : " entries");
  if (!field.is_repeated()) {
    if (field.has_presence() && !is_set) return;
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) return;
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
      measure = static_cast<double>(reflection.GetString(message, &field).size());
      if (measure == 0) return;
      shown = absl::StrCat(measure, " bytes");
    } else {
      shown = FormatScalar(message, field, -1, false);
      measure = std::strtod(shown.c_str(), nullptr);
    }
  }
  if (!WithinBounds(rules, measure)) {
    if (rules.secret()) shown = "***";
    Error(OriginOf(path), path, absl::StrCat("must be ", BoundsText(field), ", got ", shown));
  }
}

absl::Status Loader::Result() const {
  if (errors_.empty()) return absl::OkStatus();
  std::vector<std::string> shown(errors_.begin(),
                                 errors_.begin() + std::min(errors_.size(), kMaxErrors));
  if (errors_.size() > kMaxErrors) {
    shown.push_back(absl::StrCat("and ", errors_.size() - kMaxErrors, " more"));
  }
  return absl::InvalidArgumentError(absl::StrJoin(shown, "\n"));
}

}  // namespace

absl::Status ParseYaml(std::string_view text, std::string_view name,
                       std::span<const std::string> sets, Message* message,
                       const LoadOptions& options, Origins* origins) {
  Origins own_origins;
  if (origins == nullptr) origins = &own_origins;
  origins->clear();
  message->Clear();
  ROLLCALL_ASSIGN_OR_RETURN(YamlNode root, ParseYamlTree(text, name));
  for (const std::string& set : sets) {
    ROLLCALL_RETURN_IF_ERROR(ApplyOverride(set, &root));
  }
  Loader loader{std::string(name), origins};
  loader.Bind(root, "", message);
  // What did not bind has a wrong or no value: judging it as well would only repeat the error.
  ROLLCALL_RETURN_IF_ERROR(loader.Result());
  loader.ApplyDefaults("", message);
  loader.Validate("", /*enforce_required=*/true, options.required_in, *message);
  return loader.Result();
}

absl::Status LoadYaml(const std::string& path, std::span<const std::string> sets, Message* message,
                      const LoadOptions& options, Origins* origins) {
  if (path.empty()) return ParseYaml("", "configuration", sets, message, options, origins);
  ROLLCALL_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  return ParseYaml(text, path, sets, message, options, origins);
}

}  // namespace rollcall::config
