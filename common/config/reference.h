#pragma once

#include <google/protobuf/descriptor.h>

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace rollcall::config {

// Documentation of a configuration schema, made from its field options; it needs no configuration.
// Pure.

// Type, default, bounds, unit and explanation of the field at `path` ("learner.optimizer.lr";
// indices may be given and are ignored), or the fields of the section there; "" is the whole
// schema. NOT_FOUND names the step that does not exist and the nearest one that does.
absl::StatusOr<std::string> FieldHelp(const google::protobuf::Descriptor& schema,
                                      std::string_view path);

// The whole schema in Markdown: a heading and a table of fields for each section, depth first.
std::string DocumentMarkdown(const google::protobuf::Descriptor& schema);

}  // namespace rollcall::config
