#include "services/learner/service_wait.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "common/rpc/status_conversion.h"
#include "rollcall/v1/logprob.grpc.pb.h"
#include "services/learner/rollout/retry.h"

namespace rollcall::learner {

absl::Status AwaitAnswer(const std::string& who, absl::Time deadline, const RunControl& control,
                         const std::function<grpc::Status(grpc::ClientContext&)>& call) {
  while (true) {
    if (control.interrupted()) {
      return control.failure().ok() ? absl::CancelledError("stopped") : control.failure();
    }
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    context.set_deadline(absl::ToChronoTime(std::min(deadline, absl::Now() + kServiceLookAround)));
    const absl::Status status = rpc::FromGrpc(call(context));
    if (status.ok()) return status;
    if (!IsRetryable(status)) return Annotate(status, who);
    if (absl::Now() >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat(
          who, " did not answer within rpc.connect_timeout: ", std::string(status.message())));
    }
  }
}

absl::StatusOr<v1::ModelDescription> AwaitReference(const ReferencePeer& peer,
                                                    const PolicyShape& policy, absl::Time deadline,
                                                    RunControl* control) {
  const std::string who = absl::StrCat("the reference at ", peer.address);
  control->SetPhase(v1::LEARNER_PHASE_WAITING, who);
  const auto stub = v1::LogProb::NewStub(peer.channel);
  v1::ModelDescription description;
  ROLLCALL_RETURN_IF_ERROR(AwaitAnswer(who, deadline, *control, [&](grpc::ClientContext& context) {
    return stub->Describe(&context, v1::DescribeModelRequest(), &description);
  }));
  const bool known = !description.tokenizer_hash().empty() && !policy.tokenizer_hash.empty();
  const bool same = known && description.tokenizer_hash() == policy.tokenizer_hash;
  // Models of one family may pad the vocabulary of their one tokenizer differently.
  if (description.vocab_size() != policy.vocab_size &&
      !(same && description.vocab_size() > policy.vocab_size)) {
    return absl::FailedPreconditionError(absl::StrCat(who, " has a vocabulary of ",
                                                      description.vocab_size(),
                                                      ", the policy one of ", policy.vocab_size));
  }
  if (known && !same) {
    return absl::FailedPreconditionError(
        absl::StrCat(who,
                     " has another tokenizer than the policy: its log-probs would be of "
                     "other texts"));
  }
  return description;
}

}  // namespace rollcall::learner
