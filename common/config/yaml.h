#pragma once

#include <google/protobuf/message.h>

#include <map>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace rollcall::config {

// Configuration as YAML, for any protobuf message that is its schema: field names are keys,
// messages sections, repeated fields lists, enums lower-case names without their prefix. Defaults,
// bounds and required fields are those of the field option (rollcall.v1.rules).
//
//   name: arithmetic
//   learner: {steps: 200, optimizer: {lr: 1e-4}}
//   reward:
//     verifiers:
//       - {name: answer, exact_match: {answer_column: answer}}
//
// All functions are thread-safe and, LoadYaml's reading apart, do not block.

// Where each value came from, by its path ("data.train[0].path"): "run.yaml:12" or "--set a.b=c".
// Defaults have none.
using Origins = std::map<std::string, std::string>;

// Which `required` fields must be given.
struct LoadOptions {
  // Names of top-level fields; `required` is enforced within these alone. Empty: everywhere.
  std::span<const std::string_view> required_in;
};

// Replaces `message` by the file at `path`, then by each override of `sets` in order
// ("learner.optimizer.lr=1e-6", "data.train[0].path=x.jsonl", "data.train=[{path: x.jsonl}]"), then
// by defaults: every unset scalar takes its default and every singular section exists. Of a oneof
// only the member that is written exists. `path` may be empty: overrides and defaults alone.
//
// NOT_FOUND or PERMISSION_DENIED for an unreadable file. INVALID_ARGUMENT lists what is wrong, one
// line each, as "run.yaml:12: learner.optimizer.lr: must be >= 0, got -1" or "--set
// learner.optimiser.lr=1: learner.optimiser: unknown field; did you mean optimizer?". On an error
// `message` is unspecified. `origins` may be null.
absl::Status LoadYaml(const std::string& path, std::span<const std::string> sets,
                      google::protobuf::Message* message, const LoadOptions& options = {},
                      Origins* origins = nullptr);

// As LoadYaml, from memory; `name` stands for the file in messages.
absl::Status ParseYaml(std::string_view text, std::string_view name,
                       std::span<const std::string> sets, google::protobuf::Message* message,
                       const LoadOptions& options = {}, Origins* origins = nullptr);

// Whether fields marked `secret` are printed or shown as "***".
enum class Secrets { kRedact, kKeep };

// The whole message as YAML, in field order: equal messages give equal text, and with kKeep
// ParseYaml reads it back as an equal message. Unset `optional` fields, unset oneof members and
// absent sections are left out.
std::string FormatYaml(const google::protobuf::Message& message,
                       Secrets secrets = Secrets::kRedact);

}  // namespace rollcall::config
