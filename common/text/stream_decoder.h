#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

struct RollcallStream;

namespace rollcall::text {

// Text of one growing sequence of ids, as it grows. Never returns part of a character: an
// unfinished one is held until its last byte comes or Flush(). All returned texts joined are
// Tokenizer::Decode of the same ids, except where a run of byte tokens turns invalid after its
// valid beginning was returned. Holds what it needs of its tokenizer. Used by one thread at a time.
class StreamDecoder {
 public:
  StreamDecoder(StreamDecoder&&) = default;
  StreamDecoder& operator=(StreamDecoder&&) = default;

  // The text that `id` completes; often empty. An id outside the vocabulary prints nothing.
  absl::StatusOr<std::string> Step(uint32_t id);

  // The held text, with U+FFFD for bytes that never became a character. Afterwards the decoder is
  // as new.
  absl::StatusOr<std::string> Flush();

 private:
  friend class Tokenizer;
  struct Free {
    void operator()(RollcallStream* stream) const;
  };

  explicit StreamDecoder(RollcallStream* stream) : stream_(stream) {}

  std::unique_ptr<RollcallStream, Free> stream_;
};

}  // namespace rollcall::text
