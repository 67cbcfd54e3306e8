#include "services/learner/learner_service.h"

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"
#include "common/base/status.h"
#include "services/learner/learner.h"
#include "services/learner/rank_follower.h"
#include "services/learner/rank_link.h"
#include "services/learner/service.h"

namespace rollcall::learner {
namespace {

class LearnerService final : public rpc::HostedService {
 public:
  LearnerService(const rpc::ServiceContext& context, bool linger)
      : shutdown_(context.shutdown),
        report_health_(context.report_health),
        linger_(linger),
        metrics_(context.metrics),
        rpc_(&control_) {
    const auto on_metrics = [this](std::shared_ptr<MetricsLog> log) {
      rpc_.SetMetricsLog(std::move(log));
      report_health_(true);
    };
    learner_ = std::make_unique<Learner>(context.config, &metrics_, &control_, on_metrics,
                                         context.progress);
  }
  ~LearnerService() override {
    if (thread_.joinable()) thread_.join();
  }

  std::vector<grpc::Service*> services() override { return {&rpc_}; }

  absl::Status Start() override {
    report_health_(false);
    // The training thread loads the model itself, since it owns it; GetStatus says how far it is.
    thread_ = std::thread([this] {
      const absl::Status status = learner_->Run();
      if (!status.ok()) {
        shutdown_.Fail(status);
        return;
      }
      metrics_.run_over.Set(1);
      if (linger_) {
        LogInfo("the run is over; staying until told to end", {});
      } else {
        shutdown_.Request("the run is over");
      }
    });
    return absl::OkStatus();
  }

  void CloseIntake() override { control_.Stop(shutdown_.reason()); }

  // Waits for the step in progress and its checkpoint however long they take, so that a stopped run
  // never loses a step; a second signal is the way out.
  absl::Status Drain(absl::Time) override {
    if (thread_.joinable()) thread_.join();
    return absl::OkStatus();
  }

 private:
  Shutdown& shutdown_;
  const rpc::HealthReporter report_health_;
  const bool linger_;
  LearnerMetrics metrics_;
  RunControl control_;
  LearnerRpcService rpc_;
  std::unique_ptr<Learner> learner_;
  std::thread thread_;
};

// A rank above 0: health, and a Learner service that implements nothing.
class FollowerService final : public rpc::HostedService {
 public:
  FollowerService(const rpc::ServiceContext& context, bool linger)
      : shutdown_(context.shutdown),
        linger_(linger),
        metrics_(context.metrics),
        follower_(context.config, &metrics_) {}
  ~FollowerService() override {
    if (thread_.joinable()) thread_.join();
  }

  std::vector<grpc::Service*> services() override { return {&steered_elsewhere_}; }

  absl::Status Start() override {
    thread_ = std::thread([this] {
      const absl::Status status = follower_.Run();
      if (!status.ok()) {
        shutdown_.Fail(status);
        return;
      }
      metrics_.run_over.Set(1);
      if (!linger_) shutdown_.Request("rank 0 ended the run");
    });
    return absl::OkStatus();
  }

  void CloseIntake() override { follower_.Stop(); }

  // Until rank 0 has ended the run: it needs this rank's part for the last checkpoint.
  absl::Status Drain(absl::Time) override {
    if (thread_.joinable()) thread_.join();
    return absl::OkStatus();
  }

 private:
  Shutdown& shutdown_;
  const bool linger_;
  LearnerMetrics metrics_;
  // UNIMPLEMENTED for every call: runs are watched and steered at rank 0.
  v1::Learner::CallbackService steered_elsewhere_;
  RankFollower follower_;
  std::thread thread_;
};

absl::Status CheckRank(const v1::RunConfig& config) {
  const v1::LearnerSection& learner = config.learner();
  if (learner.rank() >= RanksOf(config)) {
    return absl::InvalidArgumentError(
        absl::StrCat("learner.rank: must be below the number of ranks, ", RanksOf(config), ", got ",
                     learner.rank()));
  }
  if (RanksOf(config) > 1 && learner.rendezvous().empty()) {
    return absl::InvalidArgumentError(
        "learner.rendezvous: several ranks need the host:port at which rank 0 serves it");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<rpc::HostedService>> MakeService(const rpc::ServiceContext& context,
                                                                bool linger) {
  ROLLCALL_RETURN_IF_ERROR(CheckRank(context.config));
  if (context.config.learner().rank() > 0) {
    return std::make_unique<FollowerService>(context, linger);
  }
  return std::make_unique<LearnerService>(context, linger);
}

}  // namespace rollcall::learner
