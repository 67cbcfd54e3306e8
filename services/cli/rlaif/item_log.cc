#include "services/cli/rlaif/item_log.h"

#include <cerrno>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/file.h"
#include "common/base/status.h"

namespace rollcall::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string Shown(const StepInputs& inputs, const std::string& name) {
  const auto found = inputs.find(name);
  return found == inputs.end() ? "none" : found->second.empty() ? "\"\"" : found->second;
}

}  // namespace

absl::Status CheckInputs(const StepInputs& recorded, const StepInputs& now) {
  StepInputs names = recorded;
  names.insert(now.begin(), now.end());
  std::vector<std::string> differing;
  for (const auto& [name, value] : names) {
    const std::string before = Shown(recorded, name), after = Shown(now, name);
    if (before != after) differing.push_back(absl::StrCat(name, ": ", before, ", now ", after));
  }
  if (differing.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("made with another ", absl::StrJoin(differing, "; ")));
}

std::string JsonLine(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

absl::StatusOr<std::unique_ptr<ItemLog>> ItemLog::Open(const std::string& path,
                                                       const StepInputs& inputs) {
  auto log = std::unique_ptr<ItemLog>(new ItemLog(path));
  absl::StatusOr<std::string> bytes = ReadFile(path);
  if (!bytes.ok() && !absl::IsNotFound(bytes.status())) return bytes.status();
  std::string kept = bytes.ok() ? *bytes : "";
  ROLLCALL_RETURN_IF_ERROR(log->Read(kept, inputs));
  if (kept.empty()) kept = JsonLine({{"inputs", inputs}});
  if (!bytes.ok() || kept != *bytes) {
    ROLLCALL_RETURN_IF_ERROR(WriteFileAtomically(path, kept));
  }
  log->file_ = std::fopen(path.c_str(), "ae");
  if (log->file_ == nullptr) return absl::ErrnoToStatus(errno, path);
  return log;
}

ItemLog::~ItemLog() {
  if (file_ != nullptr) std::fclose(file_);
}

// Cuts what follows the last newline of `bytes`.
absl::Status ItemLog::Read(std::string& bytes, const StepInputs& inputs) {
  bytes.resize(bytes.rfind('\n') == std::string::npos ? 0 : bytes.rfind('\n') + 1);
  std::string_view rest = bytes;
  for (size_t line = 1; !rest.empty(); ++line) {
    const size_t end = rest.find('\n');
    const std::string place = absl::StrCat(path_, ":", line, ": ");
    Json json = Json::parse(rest.substr(0, end), nullptr, /*allow_exceptions=*/false);
    rest.remove_prefix(end + 1);
    try {
      if (line == 1) {
        ROLLCALL_RETURN_IF_ERROR(Annotate(CheckInputs(json.at("inputs").get<StepInputs>(), inputs),
                                          absl::StrCat(path_, ":1")));
        continue;
      }
      const Key key = json.at("item").get<Key>();
      if (!items_.emplace(key, std::move(json.at("result"))).second) {
        return absl::DataLossError(
            absl::StrCat(place, "item ", key.first, ".", key.second, " for the second time"));
      }
    } catch (const Json::exception& error) {
      return absl::DataLossError(absl::StrCat(place, "no line of a step's items: ", error.what()));
    }
  }
  return absl::OkStatus();
}

absl::Status ItemLog::Append(const Key& key, Json result) {
  const auto [item, is_new] = items_.emplace(key, std::move(result));
  if (!is_new) {
    return absl::InternalError(
        absl::StrCat(path_, ": item ", key.first, ".", key.second, " for the second time"));
  }
  const std::string line = JsonLine({{"item", {key.first, key.second}}, {"result", item->second}});
  if (std::fwrite(line.data(), 1, line.size(), file_) != line.size() || std::fflush(file_) != 0) {
    return absl::ErrnoToStatus(errno, path_);
  }
  return absl::OkStatus();
}

}  // namespace rollcall::cli
