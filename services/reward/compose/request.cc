#include "services/reward/compose/request.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <cmath>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "common/wire/sha256.h"

namespace rollcall::reward {
namespace {

absl::Status CheckGroup(const v1::VerifierGroup& group, const std::string& path) {
  if (group.samples().empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ".samples: must not be empty"));
  }
  std::unordered_set<uint32_t> seen;
  for (int s = 0; s < group.samples_size(); ++s) {
    const v1::VerifierSample& sample = group.samples(s);
    if (!seen.insert(sample.index()).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ".samples[", s, "].index: ", sample.index(), " is given twice"));
    }
    if (sample.text().size() > kMaxTextBytes) {
      return absl::InvalidArgumentError(absl::StrCat(path, ".samples[", s,
                                                     "].text: ", sample.text().size(),
                                                     " bytes, at most ", kMaxTextBytes));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckScoreRequest(const v1::ScoreRequest& request) {
  if (request.groups().empty()) {
    return absl::InvalidArgumentError("groups: must not be empty");
  }
  if (request.idempotency_key().empty() || request.idempotency_key().size() > kMaxKeyBytes) {
    return absl::InvalidArgumentError(absl::StrCat("idempotency_key: expected 1 to ", kMaxKeyBytes,
                                                   " bytes, got ",
                                                   request.idempotency_key().size()));
  }
  if (!std::isfinite(request.deadline_seconds()) || request.deadline_seconds() <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("deadline_seconds: must be > 0, got ", request.deadline_seconds()));
  }
  int64_t samples = 0;
  std::unordered_set<uint64_t> seen;
  for (int g = 0; g < request.groups_size(); ++g) {
    const v1::VerifierGroup& group = request.groups(g);
    const std::string path = absl::StrCat("groups[", g, "]");
    if (!seen.insert(group.group_id()).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ".group_id: ", group.group_id(), " is given twice"));
    }
    samples += group.samples_size();
    if (samples > kMaxSamples) {
      return absl::ResourceExhaustedError(
          absl::StrCat("groups: more than ", kMaxSamples, " samples in one request"));
    }
    if (absl::Status status = CheckGroup(group, path); !status.ok()) return status;
  }
  return absl::OkStatus();
}

std::string FingerprintOf(const v1::ScoreRequest& request) {
  wire::Sha256 hash;
  for (const v1::VerifierGroup& group : request.groups()) {
    std::string bytes;
    {
      google::protobuf::io::StringOutputStream stream(&bytes);
      google::protobuf::io::CodedOutputStream coded(&stream);
      coded.SetSerializationDeterministic(true);  // The columns are a map.
      group.SerializeToCodedStream(&coded);
    }
    const uint64_t size = bytes.size();
    hash.Update(&size, sizeof(size));
    hash.Update(bytes);
  }
  return wire::ToBytes(hash.Finish());
}

std::string KeyOfAttempt(const std::string& key, uint32_t attempt) {
  if (attempt <= 1) return key;
  return wire::ToHex(wire::Sha256Of(absl::StrCat(key, "\n", attempt)));
}

}  // namespace rollcall::reward
