#include "services/cli/train/progress.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace rollcall::cli {
namespace {

struct Column {
  const char* metric;
  const char* label;
  const char* format;
};

constexpr std::array<Column, 8> kColumns = {{{"reward/mean", "reward", "%.3f"},
                                             {"loss", "loss", "%.4f"},
                                             {"accuracy", "accuracy", "%.3f"},
                                             {"margin", "margin", "%.3f"},
                                             {"kl", "KL", "%.4f"},
                                             {"entropy", "entropy", "%.3f"},
                                             {"length/mean", "length", "%.1f"},
                                             {"tokens_per_second", "tok/s", "%.0f"}}};

// Eighths of a character cell, from empty to full.
constexpr std::array<const char*, 9> kBlocks = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};

std::string FormatValue(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

}  // namespace

std::string FormatClock(absl::Duration duration) {
  const int64_t seconds =
      std::max<int64_t>(0, absl::ToInt64Seconds(duration + absl::Milliseconds(500)));
  if (seconds < 3600) return absl::StrFormat("%d:%02d", seconds / 60, seconds % 60);
  return absl::StrFormat("%d:%02d:%02d", seconds / 3600, seconds / 60 % 60, seconds % 60);
}

std::string FormatLiveLine(const ProgressState& state) {
  if (state.values.empty()) {
    return absl::StrCat("starting  ", FormatClock(state.elapsed),
                        state.waiting_for.empty() ? "" : "  waiting for ", state.waiting_for);
  }
  std::string line = absl::StrCat("step ", state.step, "/", state.total_steps);
  for (const Column& column : kColumns) {
    const auto found = state.values.find(column.metric);
    if (found == state.values.end()) continue;
    // The loss says little once there is a reward.
    if (found->first == "loss" && state.values.count("reward/mean") > 0) continue;
    absl::StrAppend(&line, "  ", column.label, " ", FormatValue(column.format, found->second));
  }
  if (state.steps_done > 0 && state.total_steps > state.step) {
    const absl::Duration left =
        state.elapsed * (static_cast<double>(state.total_steps - state.step) /
                         static_cast<double>(state.steps_done));
    absl::StrAppend(&line, "  ETA ", FormatClock(left));
  }
  return line;
}

std::string RenderCurve(std::span<const double> values, size_t width, size_t height) {
  std::vector<double> finite;
  for (double value : values) {
    if (std::isfinite(value)) finite.push_back(value);
  }
  if (finite.empty() || width == 0 || height == 0) return "";
  width = std::min(width, finite.size());
  std::vector<double> columns(width);
  for (size_t c = 0; c < width; ++c) {
    const size_t begin = c * finite.size() / width;
    const size_t end = std::max(begin + 1, (c + 1) * finite.size() / width);
    double sum = 0;
    for (size_t i = begin; i < end; ++i) sum += finite[i];
    columns[c] = sum / static_cast<double>(end - begin);
  }
  const auto [low, high] = std::minmax_element(columns.begin(), columns.end());
  const double bottom = *low;
  const double range = *high > *low ? *high - *low : 1.0;

  std::string chart;
  for (size_t row = height; row-- > 0;) {
    const double level = bottom + range * static_cast<double>(row) /
                                      static_cast<double>(std::max<size_t>(1, height - 1));
    absl::StrAppend(&chart, absl::StrFormat("%9.3f ┤", level));
    for (double value : columns) {
      // One eighth at the very bottom, so that the lowest column shows.
      const double eighths = 1 + (value - bottom) / range * (static_cast<double>(height) * 8 - 1);
      const double in_row = std::clamp(eighths - static_cast<double>(row) * 8, 0.0, 8.0);
      absl::StrAppend(&chart, kBlocks[static_cast<size_t>(std::lround(in_row))]);
    }
    absl::StrAppend(&chart, "\n");
  }
  return chart;
}

}  // namespace rollcall::cli
