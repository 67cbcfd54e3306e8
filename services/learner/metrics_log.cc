#include "services/learner/metrics_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/file.h"
#include "common/base/status.h"

namespace rollcall::learner {
namespace {

std::string FormatLine(const v1::StepMetrics& entry) {
  nlohmann::ordered_json line;
  line["step"] = entry.step();
  line["time"] = entry.time();
  const std::map<std::string, double> sorted(entry.values().begin(), entry.values().end());
  for (const auto& [name, value] : sorted) {
    // JSON has no NaN; null says that the figure is none.
    line[name] = std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json();
  }
  return line.dump() + "\n";
}

// nullopt: torn or foreign.
std::optional<v1::StepMetrics> ParseLine(const std::string& text) {
  const nlohmann::json line = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!line.is_object() || !line.contains("step") || !line["step"].is_number_unsigned()) {
    return std::nullopt;
  }
  v1::StepMetrics entry;
  for (const auto& [name, value] : line.items()) {
    if (name == "step") {
      entry.set_step(value.get<uint64_t>());
    } else if (!value.is_number()) {
      continue;
    } else if (name == "time") {
      entry.set_time(value.get<double>());
    } else {
      (*entry.mutable_values())[name] = value.get<double>();
    }
  }
  return entry;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsLog>> MetricsLog::Open(const std::string& path,
                                                             uint64_t resumed_step, Clock* clock) {
  std::vector<v1::StepMetrics> kept;
  absl::StatusOr<std::string> before = ReadFile(path);
  if (before.ok()) {
    std::string text;
    const std::vector<std::string> lines = absl::StrSplit(*before, '\n', absl::SkipEmpty());
    for (const std::string& line : lines) {
      std::optional<v1::StepMetrics> entry = ParseLine(line);
      if (!entry || resumed_step == 0 || entry->step() > resumed_step) continue;
      text += line + "\n";
      kept.push_back(*std::move(entry));
    }
    if (text != *before) ROLLCALL_RETURN_IF_ERROR(WriteFileAtomically(path, text));
  } else if (!absl::IsNotFound(before.status())) {
    return before.status();
  }
  FileDescriptor file(open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644));
  if (file.get() < 0) return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot open"));
  const std::string folder = std::filesystem::path(path).parent_path() / "tensorboard";
  ROLLCALL_ASSIGN_OR_RETURN(std::unique_ptr<EventFileWriter> events,
                            EventFileWriter::Create(folder, clock->Now()));
  ROLLCALL_RETURN_IF_ERROR(
      events->AppendStart(resumed_step == 0 ? 0 : resumed_step + 1, clock->Now()));
  return std::unique_ptr<MetricsLog>(
      new MetricsLog(std::move(file), std::move(events), std::move(kept), clock));
}

absl::Status MetricsLog::Append(uint64_t step, const std::map<std::string, double>& values) {
  v1::StepMetrics entry;
  entry.set_step(step);
  const absl::Time now = clock_->Now();
  entry.set_time(absl::ToDoubleSeconds(now - absl::UnixEpoch()));
  entry.mutable_values()->insert(values.begin(), values.end());
  const std::string line = FormatLine(entry);
  // One write of one line: a reader never sees two halves of different ones.
  if (write(file_.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
    return absl::ErrnoToStatus(errno, "metrics.jsonl: cannot write");
  }
  ROLLCALL_RETURN_IF_ERROR(events_->AppendScalars(step, now, values));
  {
    absl::MutexLock lock(&mutex_);
    entries_.push_back(std::move(entry));
  }
  Tell();
  return absl::OkStatus();
}

size_t MetricsLog::size() const {
  absl::MutexLock lock(&mutex_);
  return entries_.size();
}

v1::StepMetrics MetricsLog::At(size_t index) const {
  absl::MutexLock lock(&mutex_);
  return entries_.at(index);
}

size_t MetricsLog::IndexOf(uint64_t step) const {
  absl::MutexLock lock(&mutex_);
  const auto found =
      std::find_if(entries_.begin(), entries_.end(),
                   [step](const v1::StepMetrics& entry) { return entry.step() >= step; });
  return static_cast<size_t>(found - entries_.begin());
}

void MetricsLog::Close() {
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
  }
  Tell();
}

bool MetricsLog::closed() const {
  absl::MutexLock lock(&mutex_);
  return closed_;
}

void MetricsLog::Listen(std::function<bool()> listener) {
  absl::MutexLock lock(&mutex_);
  listeners_.push_back(std::move(listener));
}

void MetricsLog::Tell() {
  std::vector<std::function<bool()>> listeners;
  {
    absl::MutexLock lock(&mutex_);
    listeners.swap(listeners_);
  }
  std::erase_if(listeners, [](const std::function<bool()>& listener) { return !listener(); });
  absl::MutexLock lock(&mutex_);
  // Those who came meanwhile are behind the others.
  listeners_.insert(listeners_.begin(), std::make_move_iterator(listeners.begin()),
                    std::make_move_iterator(listeners.end()));
}

}  // namespace rollcall::learner
