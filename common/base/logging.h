#pragma once

#include <concepts>
#include <initializer_list>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace rollcall {

// Structured logs on stderr, one line per event:
//   2025-01-31T12:00:00.123Z info generator weights committed step=3 seconds=0.25
//
//   LogInfo("weights committed", {{"step", step}, {"seconds", elapsed}});
//
// Values with spaces, quotes, '=' or control characters are quoted and escaped, and control
// characters of the message are escaped, so an event never spans two lines. Thread-safe; a line is
// written and flushed before the call returns.

// One key=value of an event. Keys are lower_snake_case literals.
class LogField {
 public:
  LogField(std::string_view key, std::string_view value);
  LogField(std::string_view key, const char* value) : LogField(key, std::string_view(value)) {}
  LogField(std::string_view key, const std::string& value)
      : LogField(key, std::string_view(value)) {}
  LogField(std::string_view key, bool value);
  LogField(std::string_view key, double value);
  LogField(std::string_view key, const absl::Status& value);
  LogField(std::string_view key, absl::Duration value);  // in seconds
  template <std::integral T>
  requires(!std::same_as<T, bool>) LogField(std::string_view key, T value)
      : LogField(key, std::string_view(std::to_string(value))) {}

  const std::string& text() const { return text_; }

 private:
  std::string text_;  // key=value, escaped
};

// Names this process in every line and sets the lowest level written: "debug", "info", "warn",
// "error" or "off". INVALID_ARGUMENT for another level. Before the first call lines carry no
// service and the level is info. May be called again, at any time.
absl::Status InitLogging(std::string_view service, std::string_view level);

void LogDebug(std::string_view message, std::initializer_list<LogField> fields = {});
void LogInfo(std::string_view message, std::initializer_list<LogField> fields = {});
void LogWarning(std::string_view message, std::initializer_list<LogField> fields = {});
void LogError(std::string_view message, std::initializer_list<LogField> fields = {});

}  // namespace rollcall
