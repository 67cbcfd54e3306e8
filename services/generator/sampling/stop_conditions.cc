#include "services/generator/sampling/stop_conditions.h"

#include <algorithm>

namespace rollcall::generator {

StopTracker::StopTracker(const StopConditions* conditions) : conditions_(conditions) {
  for (const std::string& text : conditions->strings) {
    longest_string_ = std::max(longest_string_, text.size());
  }
}

std::optional<StopCause> StopTracker::Append(uint32_t token, std::string_view text) {
  const bool may_stop = num_tokens_ >= conditions_->min_tokens;
  ++num_tokens_;
  const std::optional<uint32_t> found = FindString(text);
  if (may_stop &&
      std::binary_search(conditions_->token_ids.begin(), conditions_->token_ids.end(), token)) {
    return StopCause{.kind = StopCause::Kind::kToken, .token_id = token};
  }
  if (may_stop && found.has_value()) {
    return StopCause{.kind = StopCause::Kind::kString, .string_index = *found};
  }
  if (num_tokens_ >= conditions_->max_tokens) return StopCause{.kind = StopCause::Kind::kLength};
  if (num_tokens_ >= conditions_->max_completion)
    return StopCause{.kind = StopCause::Kind::kContext};
  return std::nullopt;
}

std::optional<uint32_t> StopTracker::FindString(std::string_view text) {
  if (longest_string_ == 0 || text.empty()) return std::nullopt;
  const size_t old = tail_.size();
  tail_.append(text);
  std::optional<uint32_t> found;
  size_t found_end = std::string::npos;
  for (uint32_t i = 0; i < conditions_->strings.size(); ++i) {
    const std::string& wanted = conditions_->strings[i];
    // Only occurrences that end in the new text: earlier ones were seen before.
    const size_t from = old + 1 > wanted.size() ? old + 1 - wanted.size() : 0;
    const size_t at = tail_.find(wanted, from);
    if (at != std::string::npos && at + wanted.size() < found_end) {
      found = i;
      found_end = at + wanted.size();
    }
  }
  if (tail_.size() >= longest_string_) tail_.erase(0, tail_.size() - (longest_string_ - 1));
  return found;
}

}  // namespace rollcall::generator
