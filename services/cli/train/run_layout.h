#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "rollcall/v1/config.pb.h"

namespace rollcall::cli {

// Where a local run keeps its things:
//   <output_dir>/<name>/config.yaml   what the services were started with
//                       logs/         one file a process
//                       metrics.jsonl, rollouts/, checkpoints/, final/   written by the learner
// Sockets lie in the run folder too, or, where that path would be longer than a Unix socket's may
// be, in a private folder of the system's temporary one.
struct RunLayout {
  std::string root;
  std::string config_path;
  std::string logs;
  std::string sockets;

  std::string LogPath(const std::string& service) const { return logs + "/" + service + ".log"; }
  // "unix:<sockets>/<service>.sock".
  std::string Address(const std::string& service) const {
    return "unix:" + sockets + "/" + service + ".sock";
  }
};

// Makes the folders and holds the run folder for this process until destruction.
class LockedRun {
 public:
  // FAILED_PRECONDITION when another process runs in the folder.
  static absl::StatusOr<LockedRun> Open(const v1::RunConfig& config);
  LockedRun(LockedRun&& other) noexcept;
  LockedRun& operator=(LockedRun&&) = delete;
  ~LockedRun();

  const RunLayout& layout() const { return layout_; }

 private:
  LockedRun(RunLayout layout, int lock_fd, bool private_sockets)
      : layout_(std::move(layout)), lock_fd_(lock_fd), private_sockets_(private_sockets) {}

  RunLayout layout_;
  int lock_fd_;
  bool private_sockets_;
};

}  // namespace rollcall::cli
