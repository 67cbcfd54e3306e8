#include "services/cli/rlaif/step_progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "services/cli/train/progress.h"

namespace rollcall::cli {
namespace {

constexpr absl::Duration kPlainLineEvery = absl::Seconds(5);
constexpr uint64_t kBarWidth = 24;

}  // namespace

StepProgress::StepProgress(bool quiet, std::string label, uint64_t total, uint64_t done)
    : quiet_(quiet),
      terminal_(isatty(STDOUT_FILENO) == 1),
      label_(std::move(label)),
      total_(total),
      resumed_(done),
      started_(absl::Now()),
      next_plain_(started_ + kPlainLineEvery) {}

StepProgress::~StepProgress() {
  if (open_) std::fputs("\r\x1b[2K", stdout);
  std::fflush(stdout);
}

void StepProgress::Show(uint64_t done) {
  if (quiet_) return;
  const absl::Time now = absl::Now();
  if (!terminal_ && now < next_plain_) return;
  next_plain_ = now + kPlainLineEvery;
  const std::string line = FormatProgress(label_, done, total_, resumed_, now - started_);
  std::fputs(absl::StrCat(terminal_ ? "\r\x1b[2K" : "", line, terminal_ ? "" : "\n").c_str(),
             stdout);
  std::fflush(stdout);
  open_ = terminal_;
}

std::string FormatProgress(const std::string& label, uint64_t done, uint64_t total,
                           uint64_t resumed, absl::Duration elapsed) {
  std::string bar(done * kBarWidth / std::max<uint64_t>(total, 1), '#');
  bar.resize(kBarWidth, '.');
  std::string line = absl::StrCat(label, "  [", bar, "] ", done, "/", total);
  if (done <= resumed || done >= total) return line;
  const absl::Duration left =
      elapsed * (static_cast<double>(total - done) / static_cast<double>(done - resumed));
  absl::StrAppend(&line, "  ", FormatClock(left), " left");
  return line;
}

std::string FormatSummary(const nlohmann::ordered_json& summary) {
  std::vector<std::string> parts;
  for (const auto& [name, value] : summary.items()) {
    if (value.is_object()) {
      parts.push_back(absl::StrCat(name, " (", FormatSummary(value), ")"));
    } else if (value.is_number_float()) {
      parts.push_back(absl::StrFormat("%s %.4g", name, value.get<double>()));
    } else if (value.is_number()) {
      parts.push_back(absl::StrCat(name, " ", value.dump()));
    }
  }
  return absl::StrJoin(parts, ", ");
}

}  // namespace rollcall::cli
