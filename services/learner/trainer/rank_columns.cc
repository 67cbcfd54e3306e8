#include "services/learner/trainer/rank_columns.h"

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace rollcall::learner {
namespace {

// Of each column: its place and its length, then its numbers.
using Header = std::array<uint64_t, 2>;

std::string Encode(const std::vector<std::vector<float>>& columns) {
  std::string bytes;
  for (size_t i = 0; i < columns.size(); ++i) {
    if (columns[i].empty()) continue;
    const Header header = {i, columns[i].size()};
    bytes.append(reinterpret_cast<const char*>(header.data()), sizeof(header));
    bytes.append(reinterpret_cast<const char*>(columns[i].data()),
                 columns[i].size() * sizeof(float));
  }
  return bytes;
}

absl::Status Decode(std::string_view bytes, std::vector<std::vector<float>>& columns) {
  while (bytes.size() >= sizeof(Header)) {
    Header header;
    std::memcpy(header.data(), bytes.data(), sizeof(header));
    bytes.remove_prefix(sizeof(header));
    const auto [place, count] = header;
    if (place >= columns.size() || count > bytes.size() / sizeof(float)) break;
    columns[place].resize(count);
    std::memcpy(columns[place].data(), bytes.data(), count * sizeof(float));
    bytes.remove_prefix(count * sizeof(float));
  }
  return bytes.empty() ? absl::OkStatus()
                       : absl::DataLossError("columns of another rank are not of this batch");
}

}  // namespace

absl::Status ShareColumns(ProcessGroup& group, std::vector<std::vector<float>>& columns) {
  if (group.size() == 1) return absl::OkStatus();
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<std::string> gathered,
                            group.AllGather(Encode(columns)));
  for (const std::string& bytes : gathered) ROLLCALL_RETURN_IF_ERROR(Decode(bytes, columns));
  return absl::OkStatus();
}

}  // namespace rollcall::learner
