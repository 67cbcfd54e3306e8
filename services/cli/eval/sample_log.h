#pragma once

#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace rollcall::cli {

// One completion of an evaluation, scored.
struct EvaluatedSample {
  uint64_t prompt = 0;  // counted over all files
  uint32_t sample = 0;  // within the prompt
  std::string text;
  std::string answer;
  // Absent where every verifier abstained.
  std::optional<double> reward;
  std::map<std::string, double> components;
  std::string detail;
  uint32_t tokens = 0;
  std::string finish_reason;  // "stop_token"
};

// The per-sample file of an evaluation, JSONL, one line a sample. A prompt's samples are appended
// together, so a file that an interrupted evaluation left is gone on with. Not thread-safe.
class SampleLog {
 public:
  // Opens `path`, or makes it; an empty path logs nothing. `evaluation` names what is evaluated: equal
  // for equal weights, data, sampling and verifiers. Prompts that lack some of their `samples`
  // samples are cut out.
  //
  // FAILED_PRECONDITION: the file is another evaluation's. INVALID_ARGUMENT: it is no such file.
  static absl::StatusOr<std::unique_ptr<SampleLog>> Open(const std::string& path,
                                                         const std::string& evaluation,
                                                         uint32_t samples);
  ~SampleLog();

  // What the file held, by prompt; taken out of the log.
  std::map<uint64_t, std::vector<EvaluatedSample>> TakeFinished() { return std::move(finished_); }

  // The samples of one prompt, in order.
  absl::Status Append(const std::vector<EvaluatedSample>& samples);

 private:
  SampleLog(std::string path, std::string evaluation)
      : path_(std::move(path)), evaluation_(std::move(evaluation)) {}
  absl::Status ReadFinished(const std::string& bytes, uint32_t samples);
  std::string Lines(const std::vector<EvaluatedSample>& samples) const;

  const std::string path_;
  const std::string evaluation_;
  std::map<uint64_t, std::vector<EvaluatedSample>> finished_;
  std::FILE* file_ = nullptr;
};

}  // namespace rollcall::cli
