#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rollcall::generator {

// When a completion ends. Shared by the samples of a group; immutable.
struct StopConditions {
  std::vector<uint32_t>
      token_ids;  // sorted; the model's end-of-sequence tokens among them unless they are ignored
  std::vector<std::string> strings;  // none empty
  // A stop token or string ends a completion only if at least this many tokens come before the one
  // that completes it.
  uint32_t min_tokens = 0;
  uint32_t max_tokens = 0;      // of the completion, >= 1
  uint32_t max_completion = 0;  // tokens of context that the prompt leaves, >= 1
};

struct StopCause {
  enum class Kind { kToken, kString, kLength, kContext };
  Kind kind = Kind::kLength;
  uint32_t token_id = 0;      // kToken
  uint32_t string_index = 0;  // kString: into StopConditions::strings
};

// Follows one completion token by token. `conditions` must outlive it. Not thread-safe.
//
// A stop string that was completed before min_tokens does not end the completion later either.
// Where a token meets several conditions the first of stop token, stop string, length and context
// is the cause; of several strings the one that ends first, then the one listed first.
class StopTracker {
 public:
  explicit StopTracker(const StopConditions* conditions);

  // One more token of the completion, and the text it completed (empty where there are no stop
  // strings). The cause, if this token ends the completion.
  std::optional<StopCause> Append(uint32_t token, std::string_view text);

  uint32_t num_tokens() const { return num_tokens_; }

 private:
  std::optional<uint32_t> FindString(std::string_view text);

  const StopConditions* conditions_;
  uint32_t num_tokens_ = 0;
  size_t longest_string_ = 0;
  std::string tail_;  // the last longest_string_ - 1 bytes of the text
};

}  // namespace rollcall::generator
