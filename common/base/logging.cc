#include "common/base/logging.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <memory>

#include "absl/base/const_init.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"

namespace rollcall {
namespace {

constexpr char kPattern[] = "%Y-%m-%dT%H:%M:%S.%eZ %l %v";
constexpr char kPatternWithService[] = "%Y-%m-%dT%H:%M:%S.%eZ %l %n %v";

bool NeedsQuotes(std::string_view value) {
  return value.empty() || std::any_of(value.begin(), value.end(), [](unsigned char c) {
           return c <= ' ' || c == '"' || c == '=' || c == '\\' || c == 0x7F;
         });
}

std::string Escape(std::string_view value) {
  return absl::Utf8SafeCEscape(absl::string_view(value.data(), value.size()));
}

std::string FormatField(std::string_view key, std::string_view value) {
  std::string text = absl::StrCat(std::string(key), "=");
  if (NeedsQuotes(value)) {
    absl::StrAppend(&text, "\"", Escape(value), "\"");
  } else {
    text.append(value);
  }
  return text;
}

std::shared_ptr<spdlog::logger> MakeLogger(const std::string& service,
                                           spdlog::level::level_enum level) {
  auto logger =
      std::make_shared<spdlog::logger>(service, std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern(service.empty() ? kPattern : kPatternWithService,
                      spdlog::pattern_time_type::utc);
  logger->set_level(level);
  logger->flush_on(spdlog::level::trace);
  return logger;
}

// The current logger; never destroyed, so that threads may log until the process ends.
struct Current {
  absl::Mutex mutex;
  std::shared_ptr<spdlog::logger> logger ABSL_GUARDED_BY(mutex);
};

Current& TheCurrent() {
  static Current* const current = [] {
    auto* made = new Current;
    absl::MutexLock lock(&made->mutex);
    made->logger = MakeLogger("", spdlog::level::info);
    return made;
  }();
  return *current;
}

std::shared_ptr<spdlog::logger> CurrentLogger() {
  Current& current = TheCurrent();
  absl::MutexLock lock(&current.mutex);
  return current.logger;
}

void Write(spdlog::level::level_enum level, std::string_view message,
           std::initializer_list<LogField> fields) {
  const std::shared_ptr<spdlog::logger> logger = CurrentLogger();
  if (!logger->should_log(level)) return;
  const bool plain = std::none_of(message.begin(), message.end(),
                                  [](unsigned char c) { return c < ' ' || c == 0x7F; });
  std::string line = plain ? std::string(message) : Escape(message);
  for (const LogField& field : fields) absl::StrAppend(&line, " ", field.text());
  logger->log(level, spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace

LogField::LogField(std::string_view key, std::string_view value) : text_(FormatField(key, value)) {}
LogField::LogField(std::string_view key, bool value)
    : LogField(key, std::string_view(value ? "true" : "false")) {}
LogField::LogField(std::string_view key, double value)
    : LogField(key, std::string_view(absl::StrFormat("%.6g", value))) {}
LogField::LogField(std::string_view key, const absl::Status& value)
    : LogField(key, std::string_view(value.ToString())) {}
LogField::LogField(std::string_view key, absl::Duration value)
    : LogField(key, absl::ToDoubleSeconds(value)) {}

absl::Status InitLogging(std::string_view service, std::string_view level) {
  spdlog::level::level_enum parsed = spdlog::level::info;
  if (level == "debug") {
    parsed = spdlog::level::debug;
  } else if (level == "warn") {
    parsed = spdlog::level::warn;
  } else if (level == "error") {
    parsed = spdlog::level::err;
  } else if (level == "off") {
    parsed = spdlog::level::off;
  } else if (level != "info") {
    return absl::InvalidArgumentError(absl::StrCat(
        "log level: expected debug, info, warn, error or off, got \"", std::string(level), "\""));
  }
  auto logger = MakeLogger(std::string(service), parsed);
  Current& current = TheCurrent();
  absl::MutexLock lock(&current.mutex);
  current.logger = std::move(logger);
  return absl::OkStatus();
}

void LogDebug(std::string_view message, std::initializer_list<LogField> fields) {
  Write(spdlog::level::debug, message, fields);
}
void LogInfo(std::string_view message, std::initializer_list<LogField> fields) {
  Write(spdlog::level::info, message, fields);
}
void LogWarning(std::string_view message, std::initializer_list<LogField> fields) {
  Write(spdlog::level::warn, message, fields);
}
void LogError(std::string_view message, std::initializer_list<LogField> fields) {
  Write(spdlog::level::err, message, fields);
}

}  // namespace rollcall
