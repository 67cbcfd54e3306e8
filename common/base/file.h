#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace rollcall {

// Whole files and folders. Every error names the path; a missing file is NOT_FOUND, a refused one
// PERMISSION_DENIED.

// All bytes of a regular file (INVALID_ARGUMENT for a folder). Blocks on the disk.
absl::StatusOr<std::string> ReadFile(const std::string& path);

// Replaces `path` so that a crash at any moment leaves either the old content or the new: writes a
// temporary file beside it, syncs it, renames it and syncs the folder. The mode is 0644 less the
// umask.
absl::Status WriteFileAtomically(const std::string& path, std::string_view bytes);

// Makes `path` and its missing parents; OK when it is there already.
absl::Status MakeDirectories(const std::string& path);

// Removes a file or a folder with all it holds, without following symbolic links; OK when there is
// nothing.
absl::Status RemoveTree(const std::string& path);

// Makes a rename or a new name in the folder `path` durable.
absl::Status SyncDirectory(const std::string& path);

}  // namespace rollcall
