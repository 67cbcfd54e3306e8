#pragma once

#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace rollcall::cli {

// What a result depends on, by name: paths as they are, contents as hashes. Equal inputs, equal bytes.
using StepInputs = std::map<std::string, std::string>;

// OK when equal; else FAILED_PRECONDITION that names what differs: "made with another rlaif.revisions: 1, now 2".
absl::Status CheckInputs(const StepInputs& recorded, const StepInputs& now);

// The work of one step while it is under way: JSON Lines, the inputs first, then one line an item in the order in which
// they were finished:
//   {"inputs": {"seed": "0", …}}
//   {"item": [17, 0], "result": {…}}
// A line is written whole and flushed before the item counts as done, so whatever kills the process, an item is done or
// was never heard of. Not thread-safe.
class ItemLog {
 public:
  // An item's number and, where it has several parts, the part's.
  using Key = std::pair<uint64_t, uint32_t>;
  using Json = nlohmann::ordered_json;

  // Opens `path`, or makes it. A last line that was torn off is cut. FAILED_PRECONDITION: the file was made with other
  // inputs; DATA_LOSS: a line that is no item's, or an item twice.
  static absl::StatusOr<std::unique_ptr<ItemLog>> Open(const std::string& path,
                                                       const StepInputs& inputs);
  ~ItemLog();

  bool Has(const Key& key) const { return items_.contains(key); }
  // All results, in the order of their keys.
  const std::map<Key, Json>& items() const { return items_; }

  absl::Status Append(const Key& key, Json result);

 private:
  explicit ItemLog(std::string path) : path_(std::move(path)) {}
  absl::Status Read(std::string& bytes, const StepInputs& inputs);

  const std::string path_;
  std::map<Key, Json> items_;
  std::FILE* file_ = nullptr;
};

// One line of JSON with its newline; bytes that are no UTF-8 become U+FFFD.
std::string JsonLine(const nlohmann::ordered_json& json);

}  // namespace rollcall::cli
