#include "common/rpc/service_main.h"
#include "services/reference/reference_service.h"

int main(int argc, char** argv) {
  return rollcall::rpc::RunService(
      argc, argv,
      {.name = "reference",
       .description =
           "Serves log-probs of given tokens under a frozen model (rollcall.v1.LogProb).",
       .role = rollcall::config::Role::kReference,
       .create = rollcall::reference::MakeService});
}
