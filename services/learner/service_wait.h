#pragma once

#include <functional>
#include <string>

#include <grpcpp/client_context.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "rollcall/v1/logprob.pb.h"
#include "services/learner/reference/reference_client.h"
#include "services/learner/run_control.h"

namespace rollcall::learner {

// How often a wait for a service looks whether the run is being stopped.
inline constexpr absl::Duration kServiceLookAround = absl::Milliseconds(500);

// Repeats `call`, which has a context with a short deadline that waits for the connection, until it
// is OK, fails for a lasting reason, the deadline has passed or the run is interrupted (CANCELLED or
// the failure). Errors begin with `who`.
absl::Status AwaitAnswer(const std::string& who, absl::Time deadline, const RunControl& control,
                         const std::function<grpc::Status(grpc::ClientContext&)>& call);

// The policy, as far as a reference must be like it.
struct PolicyShape {
  uint32_t vocab_size = 0;
  // Empty: unknown.
  std::string tokenizer_hash;
};

// What the reference says of its model once it answers; the wait is shown in `control`'s status.
// FAILED_PRECONDITION: another vocabulary or tokenizer than the policy's; else as AwaitAnswer.
absl::StatusOr<v1::ModelDescription> AwaitReference(const ReferencePeer& peer,
                                                    const PolicyShape& policy, absl::Time deadline,
                                                    RunControl* control);

}  // namespace rollcall::learner
