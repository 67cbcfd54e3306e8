#pragma once

#include "rollcall/v1/learner.grpc.pb.h"
#include "services/learner/metrics_log.h"
#include "services/learner/run_control.h"

namespace rollcall::learner {

// rollcall.v1.Learner over a RunControl and the metrics of the run. Handlers never block.
// Thread-safe.
class LearnerRpcService final : public v1::Learner::CallbackService {
 public:
  explicit LearnerRpcService(RunControl* control) : control_(control) {}

  // The log exists once the run folder is open; a watcher that comes earlier is answered
  // UNAVAILABLE.
  void SetMetricsLog(std::shared_ptr<MetricsLog> log) ABSL_LOCKS_EXCLUDED(mutex_);

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetStatusRequest* request,
                                      v1::LearnerStatus* response) override;
  grpc::ServerWriteReactor<v1::StepMetrics>* WatchMetrics(
      grpc::CallbackServerContext* context, const v1::WatchMetricsRequest* request) override;
  grpc::ServerUnaryReactor* Pause(grpc::CallbackServerContext* context,
                                  const v1::PauseRequest* request,
                                  v1::LearnerStatus* response) override;
  grpc::ServerUnaryReactor* Resume(grpc::CallbackServerContext* context,
                                   const v1::ResumeRequest* request,
                                   v1::LearnerStatus* response) override;
  grpc::ServerUnaryReactor* SaveCheckpoint(grpc::CallbackServerContext* context,
                                           const v1::SaveCheckpointRequest* request,
                                           v1::SaveCheckpointResponse* response) override;
  grpc::ServerUnaryReactor* Stop(grpc::CallbackServerContext* context,
                                 const v1::StopRequest* request,
                                 v1::LearnerStatus* response) override;

 private:
  grpc::ServerUnaryReactor* AnswerStatus(grpc::CallbackServerContext* context,
                                         v1::LearnerStatus* response);

  RunControl* const control_;

  absl::Mutex mutex_;
  std::shared_ptr<MetricsLog> log_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rollcall::learner
