#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "common/rpc/service_main.h"

namespace rollcall::learner {

// The learner of a run, for rpc::RunService: rollcall.v1.Learner over the run that its training
// thread carries out. The process ends with the run: 0 when it is done or was stopped, 1 when it
// failed, 4 when another rank was lost. Health says serving once the model is loaded. With
// learner.rank above 0 it takes part in the run of rank 0 and serves health alone. INVALID_ARGUMENT:
// the section's ranks do not fit together.
//
// `linger`: where the run is done it stays, answers about the run and keeps its metrics, until it is
// told to end: for whoever would start it again (a StatefulSet).
absl::StatusOr<std::unique_ptr<rpc::HostedService>> MakeService(const rpc::ServiceContext& context,
                                                                bool linger);

}  // namespace rollcall::learner
