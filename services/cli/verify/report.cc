#include "services/cli/verify/report.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace rollcall::verify {
namespace {

std::string_view NameOf(Outcome outcome) {
  switch (outcome) {
    case Outcome::kPass:
      return "pass";
    case Outcome::kFail:
      return "FAIL";
    case Outcome::kNotSupported:
      return "not supported";
  }
  return "";
}

std::string_view JsonNameOf(Outcome outcome) {
  return outcome == Outcome::kNotSupported ? "not_supported"
         : outcome == Outcome::kPass       ? "pass"
                                           : "fail";
}

std::string Number(double value) {
  return std::isnan(value) ? "-" : absl::StrFormat("%.2e", value);
}

}  // namespace

void Report::Begin(std::string_view suite, std::string_view case_name) {
  suite_ = suite;
  case_name_ = case_name;
}

void Report::Add(Outcome outcome, std::string_view quantity, double error, double tolerance,
                 std::string_view note) {
  findings_.push_back(
      {suite_, case_name_, std::string(quantity), outcome, error, tolerance, std::string(note)});
}

void Report::Compare(std::string_view quantity, double error, double tolerance,
                     std::string_view note) {
  Add(error <= tolerance ? Outcome::kPass : Outcome::kFail, quantity, error, tolerance, note);
}

void Report::Fail(std::string_view quantity, std::string_view reason) {
  const double none = std::numeric_limits<double>::quiet_NaN();
  Add(Outcome::kFail, quantity, none, none, reason);
}

void Report::NotSupported(std::string_view quantity, std::string_view reason) {
  const double none = std::numeric_limits<double>::quiet_NaN();
  Add(Outcome::kNotSupported, quantity, none, none, reason);
}

int64_t Report::Count(Outcome outcome) const {
  return std::count_if(findings_.begin(), findings_.end(),
                       [outcome](const Finding& finding) { return finding.outcome == outcome; });
}

std::string FormatTable(const Report& report) {
  int suite = 5, case_name = 4, quantity = 8;  // the headings' own widths
  for (const Finding& finding : report.findings()) {
    suite = std::max(suite, static_cast<int>(finding.suite.size()));
    case_name = std::max(case_name, static_cast<int>(finding.case_name.size()));
    quantity = std::max(quantity, static_cast<int>(finding.quantity.size()));
  }
  std::string text =
      absl::StrFormat("%-*s  %-*s  %-*s  %13s  %9s  %s\n", suite, "suite", case_name, "case",
                      quantity, "quantity", "largest error", "tolerance", "outcome");
  for (const Finding& finding : report.findings()) {
    absl::StrAppend(&text,
                    absl::StrFormat("%-*s  %-*s  %-*s  %13s  %9s  %s", suite, finding.suite,
                                    case_name, finding.case_name, quantity, finding.quantity,
                                    Number(finding.largest_error), Number(finding.tolerance),
                                    std::string(NameOf(finding.outcome))),
                    finding.note.empty() ? "" : absl::StrCat(" (", finding.note, ")"), "\n");
  }
  absl::StrAppend(&text, report.Count(Outcome::kPass), " passed, ", report.Count(Outcome::kFail),
                  " failed, ", report.Count(Outcome::kNotSupported), " not supported\n");
  return text;
}

std::string FormatJson(const Report& report) {
  nlohmann::ordered_json findings = nlohmann::ordered_json::array();
  for (const Finding& finding : report.findings()) {
    nlohmann::ordered_json line = {{"suite", finding.suite},
                                   {"case", finding.case_name},
                                   {"quantity", finding.quantity},
                                   {"outcome", JsonNameOf(finding.outcome)}};
    // nlohmann writes a number that is not finite as null.
    line["largest_error"] = finding.largest_error;
    line["tolerance"] = finding.tolerance;
    if (!finding.note.empty()) line["note"] = finding.note;
    findings.push_back(std::move(line));
  }
  const nlohmann::ordered_json whole = {{"passed", report.Count(Outcome::kFail) == 0},
                                        {"counts",
                                         {{"pass", report.Count(Outcome::kPass)},
                                          {"fail", report.Count(Outcome::kFail)},
                                          {"not_supported", report.Count(Outcome::kNotSupported)}}},
                                        {"findings", std::move(findings)}};
  return whole.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace rollcall::verify
