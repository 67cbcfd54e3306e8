#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace rollcall::config {

// Limits on a configuration, which may come from anywhere. Far above any real one, far below what
// hurts.
inline constexpr size_t kMaxYamlBytes = 1 << 20;
inline constexpr int kMaxYamlDepth = 64;
// Nodes after aliases were expanded: 1 MiB of nested aliases would otherwise stand for billions.
inline constexpr size_t kMaxYamlNodes = 100'000;

// A YAML document as plain data in which every node knows where it was written. It knows nothing of
// any schema.
struct YamlNode {
  enum class Kind { kNull, kScalar, kList, kMap };
  enum class Style {
    kPlain,   // 12, rl
    kQuoted,  // "12"
    kRaw,     // the text after `=` of an override: a scalar or YAML, as the schema has it
  };

  Kind kind = Kind::kNull;
  Style style = Style::kPlain;
  std::string scalar;
  // keys[i] belongs to values[i] in a map; a list has only values. Keys are unique.
  std::vector<std::string> keys;
  std::vector<YamlNode> values;
  // "run.yaml:12", or "--set a.b=c".
  std::string origin;

  // The value of `key` in a map, nullptr when there is none.
  const YamlNode* Find(std::string_view key) const;
  YamlNode* Find(std::string_view key);
  // For error messages: `a list`, `nothing`, `"text"`.
  std::string Describe() const;
};

// The one document in `text`; an empty text is an empty map. INVALID_ARGUMENT, "name:line: ...", for
// text past the limits above, that is not UTF-8 or not YAML, for a repeated or a composite key,
// more than one document, or an alias to itself. Every node's origin is "name:line".
absl::StatusOr<YamlNode> ParseYamlTree(std::string_view text, std::string_view name);

// Applies one override "a.b[0].c=value" to `root`: missing sections are made, the value replaces
// what is there, and an index equal to the length of a list appends. The value is taken as text;
// where the schema wants a list or a section it is read as YAML. INVALID_ARGUMENT, "--set ...: ...",
// for a malformed path or one that leads through a scalar.
absl::Status ApplyOverride(std::string_view override_text, YamlNode* root);

// The byte offset of the first byte that is not UTF-8, or
// npos.
size_t FindInvalidUtf8(std::string_view text);

}  // namespace rollcall::config
