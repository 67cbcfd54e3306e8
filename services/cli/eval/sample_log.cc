#include "services/cli/eval/sample_log.h"

#include <cerrno>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"

namespace rollcall::cli {
namespace {

using Json = nlohmann::ordered_json;

Json ToJson(const EvaluatedSample& sample, const std::string& evaluation) {
  return {
      {"evaluation", evaluation},        {"prompt", sample.prompt},
      {"sample", sample.sample},         {"reward", sample.reward ? Json(*sample.reward) : Json()},
      {"answer", sample.answer},         {"text", sample.text},
      {"tokens", sample.tokens},         {"finish_reason", sample.finish_reason},
      {"components", sample.components}, {"detail", sample.detail}};
}

// nullopt where `json` is not what ToJson writes.
std::optional<EvaluatedSample> FromJson(const Json& json) {
  try {
    EvaluatedSample sample;
    sample.prompt = json.at("prompt").get<uint64_t>();
    sample.sample = json.at("sample").get<uint32_t>();
    if (!json.at("reward").is_null()) sample.reward = json["reward"].get<double>();
    sample.answer = json.at("answer").get<std::string>();
    sample.text = json.at("text").get<std::string>();
    sample.tokens = json.at("tokens").get<uint32_t>();
    sample.finish_reason = json.at("finish_reason").get<std::string>();
    sample.components = json.at("components").get<std::map<std::string, double>>();
    sample.detail = json.at("detail").get<std::string>();
    return sample;
  } catch (const Json::exception&) {
    return std::nullopt;
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<SampleLog>> SampleLog::Open(const std::string& path,
                                                           const std::string& evaluation,
                                                           uint32_t samples) {
  auto log = std::unique_ptr<SampleLog>(new SampleLog(path, evaluation));
  if (path.empty()) return log;
  const absl::StatusOr<std::string> bytes = ReadFile(path);
  if (!bytes.ok() && !absl::IsNotFound(bytes.status())) return bytes.status();
  if (bytes.ok()) {
    ROLLCALL_RETURN_IF_ERROR(log->ReadFinished(*bytes, samples));
    std::string kept;
    for (const auto& [prompt, finished] : log->finished_) kept += log->Lines(finished);
    if (kept.size() != bytes->size()) {
      ROLLCALL_RETURN_IF_ERROR(WriteFileAtomically(path, kept));
    }
  }
  log->file_ = std::fopen(path.c_str(), "ae");
  if (log->file_ == nullptr) return absl::ErrnoToStatus(errno, path);
  return log;
}

SampleLog::~SampleLog() {
  if (file_ != nullptr) std::fclose(file_);
}

absl::Status SampleLog::ReadFinished(const std::string& bytes, uint32_t samples) {
  std::string_view rest = bytes;
  // What follows the last newline was torn off.
  for (size_t line = 1, end; (end = rest.find('\n')) != std::string_view::npos; ++line) {
    const Json json = Json::parse(rest.substr(0, end), nullptr, /*allow_exceptions=*/false);
    rest.remove_prefix(end + 1);
    const std::string place = absl::StrCat(path_, ":", line, ": ");
    std::optional<EvaluatedSample> sample = FromJson(json);
    if (!sample || !json.contains("evaluation")) {
      return absl::InvalidArgumentError(place + "not a line of an evaluation");
    }
    if (json["evaluation"] != evaluation_) {
      return absl::FailedPreconditionError(absl::StrCat(
          place,
          "belongs to another evaluation (other weights, prompts, sampling, verifiers or -k): ",
          "give another --out, or remove it"));
    }
    finished_[sample->prompt].push_back(*std::move(sample));
  }
  std::erase_if(finished_, [samples](const auto& entry) { return entry.second.size() != samples; });
  return absl::OkStatus();
}

std::string SampleLog::Lines(const std::vector<EvaluatedSample>& samples) const {
  std::string lines;
  for (const EvaluatedSample& sample : samples) {
    absl::StrAppend(
        &lines, ToJson(sample, evaluation_).dump(-1, ' ', false, Json::error_handler_t::replace),
        "\n");
  }
  return lines;
}

absl::Status SampleLog::Append(const std::vector<EvaluatedSample>& samples) {
  if (file_ == nullptr) return absl::OkStatus();
  const std::string lines = Lines(samples);
  if (std::fwrite(lines.data(), 1, lines.size(), file_) != lines.size() ||
      std::fflush(file_) != 0) {
    return absl::ErrnoToStatus(errno, path_);
  }
  return absl::OkStatus();
}

}  // namespace rollcall::cli
