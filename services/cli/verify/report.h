#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rollcall::verify {

enum class Outcome { kPass, kFail, kNotSupported };

// One line of what `rollcall verify` prints.
struct Finding {
  std::string suite;      // "models"
  std::string case_name;  // "llama_tied"
  std::string quantity;   // "packed: logits"
  Outcome outcome = Outcome::kPass;
  double largest_error = 0;  // in the quantity's own unit; NaN where nothing could be compared
  double tolerance = 0;
  std::string note;  // why it failed or is not supported, what was left out
};

// Collects the findings of a run. Not thread-safe.
class Report {
 public:
  // What the following calls are about.
  void Begin(std::string_view suite, std::string_view case_name);

  // Passes if `error` is at most `tolerance`; NaN fails.
  void Compare(std::string_view quantity, double error, double tolerance,
               std::string_view note = "");
  // Could not be compared although it should have been.
  void Fail(std::string_view quantity, std::string_view reason);
  // Something in the folder that this build does not offer; never silent.
  void NotSupported(std::string_view quantity, std::string_view reason);

  const std::vector<Finding>& findings() const { return findings_; }
  int64_t Count(Outcome outcome) const;

 private:
  void Add(Outcome outcome, std::string_view quantity, double error, double tolerance,
           std::string_view note);

  std::string suite_;
  std::string case_name_;
  std::vector<Finding> findings_;
};

// Aligned columns for a person, and one line of totals at the end.
std::string FormatTable(const Report& report);

// {"passed": bool, "counts": {"pass", "fail", "not_supported"}, "findings": [{"suite", "case",
// "quantity", "outcome", "largest_error", "tolerance", "note"}]}; an error that is not finite is
// null.
std::string FormatJson(const Report& report);

}  // namespace rollcall::verify
