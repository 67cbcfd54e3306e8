#pragma once

#include <memory>
#include <optional>
#include <string>

#include "common/wire/record_file.h"
#include "rollcall/v1/rollout.pb.h"

namespace rollcall::cli {

// Hands out rollouts of a run while its learner appends to the rollout files: what a person is shown now and then. Only for
// looking: what cannot be read now is left out. Not thread-safe.
class SampleFeed {
 public:
  // `folder`: <run>/rollouts; may not exist yet. The newest file in it at the first call that finds one is followed.
  explicit SampleFeed(std::string folder) : folder_(std::move(folder)) {}

  // The newest training group recorded since the last call.
  std::optional<v1::Group> Newest();

 private:
  const std::string folder_;
  std::unique_ptr<wire::RecordReader> reader_;
};

// "reward 1.000  587+744= → 7+4=11,8+4+1=13,5+7+1=13 =1331": the group's first scored sample on one line, texts cut to
// `width` characters each. "" when no sample has a reward.
std::string FormatSample(const v1::Group& group, size_t width);

}  // namespace rollcall::cli
