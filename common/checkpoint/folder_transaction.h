#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace rollcall::checkpoint {

// A folder that appears under its name complete or not at all. Everything is written into a hidden
// sibling
// (".NAME.partial.XXXXXX"); Commit syncs all of it and gives it its name, in one step also where a
// folder of that name is there already: at every moment a reader sees the old folder or the new
// one. A crash leaves the old folder and perhaps a hidden sibling, which the next Begin or Recover
// of the same target removes.
//
// One process writes a target at a time; a sibling that a living process is still writing is told
// by its lock and left alone. Not thread-safe.
class FolderTransaction {
 public:
  // Makes the parents of `target` and the hidden sibling, after Recover(target).
  static absl::StatusOr<std::unique_ptr<FolderTransaction>> Begin(const std::string& target);

  // Removes what an interrupted transaction on `target` left. On file systems that cannot exchange
  // two folders in one step a crash may leave the old folder aside (".NAME.replaced"): it gets its
  // name back.
  static absl::Status Recover(const std::string& target);

  FolderTransaction(const FolderTransaction&) = delete;
  FolderTransaction& operator=(const FolderTransaction&) = delete;
  // Without a successful Commit, removes everything that was written.
  ~FolderTransaction();

  // Where to write, until Commit.
  const std::string& path() const { return path_; }

  // Blocks until all is on disk. After an error the target is as it was.
  absl::Status Commit();

 private:
  FolderTransaction(std::string target, std::string path, int lock_fd)
      : target_(std::move(target)), path_(std::move(path)), lock_fd_(lock_fd) {}

  const std::string target_;
  const std::string path_;
  int lock_fd_;  // on the folder at path_, locked; -1 after Commit
};

}  // namespace rollcall::checkpoint
