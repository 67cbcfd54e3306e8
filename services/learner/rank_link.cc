#include "services/learner/rank_link.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "services/learner/ranks/gloo_process_group.h"

namespace rollcall::learner {
namespace {

// What a rank above 0 says at every command.
constexpr std::string_view kStopping = "stop";

}  // namespace

uint32_t RanksOf(const v1::RunConfig& config) {
  return config.stage() == v1::STAGE_EVAL ? 1 : std::max(1u, config.learner().ranks());
}

absl::StatusOr<std::unique_ptr<ProcessGroup>> OpenProcessGroup(const v1::RunConfig& config) {
  if (RanksOf(config) == 1) return std::make_unique<SingleProcess>();
  return ConnectGloo({.rank = static_cast<int>(config.learner().rank()),
                      .size = static_cast<int>(config.learner().ranks()),
                      .rendezvous = config.learner().rendezvous(),
                      .connect_timeout = absl::Seconds(config.rpc().connect_timeout()),
                      .timeout = absl::Seconds(config.learner().stall_timeout())});
}

RankLeader::RankLeader(ProcessGroup* group, RunControl* control, absl::Duration heartbeat)
    : group_(group), control_(control), heartbeat_(heartbeat), thread_([this] { SignOfLife(); }) {}

RankLeader::~RankLeader() {
  {
    absl::MutexLock lock(&mutex_);
    ended_ = true;
  }
  thread_.join();
}

absl::Status RankLeader::Send(RankCommand command, std::string_view payload) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<std::string> answers,
                            group_->AllGather(absl::StrCat(
                                std::string(1, static_cast<char>(command)), std::string(payload))));
  for (size_t rank = 1; rank < answers.size(); ++rank) {
    if (answers[rank] == kStopping) control_->Stop(absl::StrCat("rank ", rank, " is stopping"));
  }
  return absl::OkStatus();
}

absl::Status RankLeader::Begin(RankCommand command, std::string_view payload) {
  absl::MutexLock lock(&mutex_);
  busy_ = true;
  return Send(command, payload);
}

void RankLeader::Done() {
  absl::MutexLock lock(&mutex_);
  busy_ = false;
}

absl::Status RankLeader::End(std::string_view failure) {
  absl::MutexLock lock(&mutex_);
  if (busy_) return absl::OkStatus();
  busy_ = true;
  return Send(RankCommand::kEnd, failure);
}

void RankLeader::SignOfLife() {
  absl::Status lost;
  while (lost.ok()) {
    absl::MutexLock lock(&mutex_);
    if (mutex_.AwaitWithTimeout(absl::Condition(&ended_), heartbeat_)) return;
    if (!busy_) lost = Send(RankCommand::kWait, "");
  }
  control_->Fail(lost);
}

absl::StatusOr<RankOrder> NextOrder(ProcessGroup& group, bool stopping) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<std::string> said,
                            group.AllGather(stopping ? kStopping : ""));
  if (said[0].empty()) return absl::DataLossError("rank 0 sent an empty command");
  return RankOrder{.command = static_cast<RankCommand>(said[0][0]), .payload = said[0].substr(1)};
}

}  // namespace rollcall::learner
