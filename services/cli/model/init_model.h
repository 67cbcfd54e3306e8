#pragma once

#include <cstdint>
#include <ostream>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "common/wire/dtype.h"

namespace rollcall::cli {

// Gives a folder that holds a config.json (and perhaps tokenizer files) random weights:
// model.safetensors in `dtype`, drawn as Decoder::InitializeRandom documents. The folder is
// replaced as a whole, complete or not at all. ALREADY_EXISTS when it has weights; the statuses of
// ModelConfig::FromJson.
absl::Status InitializeModelFolder(const std::string& folder, uint64_t seed, wire::DType dtype);

// `rollcall init DIR [--seed N] [--dtype float32|bfloat16]`. `arguments` are those after "init".
// Returns the exit code.
int RunInit(std::span<const std::string> arguments, std::ostream& out, std::ostream& errors);

}  // namespace rollcall::cli
