#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "rollcall/v1/options.pb.h"

namespace rollcall::config {

// What a configuration field is, as text and back: the part that loading, printing and documenting
// share. Pure.

// The field's (rules), or the empty rules.
const v1::FieldRules& RulesOf(const google::protobuf::FieldDescriptor& field);

// How an enum value is written: lower case, without the enum's name in front (STAGE_RL of Stage:
// "rl").
std::string EnumName(const google::protobuf::EnumValueDescriptor& value);
// Every name an enum field accepts, in order; the zero value "unspecified" is not one.
std::vector<std::string> EnumNames(const google::protobuf::EnumDescriptor& type);

// "integer >= 0", "number", "true or false", "one of rl, sft", "text", "a section", "a list of
// text": what `field` takes.
std::string ExpectedValue(const google::protobuf::FieldDescriptor& field);
// The numeric or length bounds in words, "" without any: "> 0 and <= 1", "at most 16 entries".
std::string BoundsText(const google::protobuf::FieldDescriptor& field);
// `value` (or a length) against the field's bounds.
bool WithinBounds(const v1::FieldRules& rules, double value);

// Reads `text` into the scalar `field` of `message`; adds an element where the field is repeated.
// False, with `message` untouched, when it is not an ExpectedValue. Numbers are decimal and finite;
// an integer must fit its type.
bool ParseScalar(const std::string& text, const google::protobuf::FieldDescriptor& field,
                 google::protobuf::Message* message);

// The scalar (element `index` where the field is repeated) as YAML; numbers in the fewest digits
// that read back as the same value. `quote_text` writes text so that YAML reads it back, else as it
// is.
std::string FormatScalar(const google::protobuf::Message& message,
                         const google::protobuf::FieldDescriptor& field, int index,
                         bool quote_text);
// Text as a YAML scalar: plain where that is unambiguous, else double-quoted with escapes.
std::string QuoteYaml(const std::string& text);

// The candidate nearest to `name` in edits, if one is near enough to be what was meant.
std::optional<std::string> NearestName(const std::string& name,
                                       const std::vector<std::string>& candidates);

}  // namespace rollcall::config
