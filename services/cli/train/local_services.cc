#include "services/cli/train/local_services.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/config/algorithm_presets.h"
#include "common/config/preference_rules.h"

namespace rollcall::cli {
namespace {

// "127.0.0.1:9401" for replica 2 of three becomes "127.0.0.1:9403"; port 0 and the empty address
// stay.
std::string OffsetPort(const std::string& address, uint32_t offset) {
  const size_t colon = address.rfind(':');
  uint32_t port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port) ||
      port == 0)
    return address;
  return absl::StrCat(address.substr(0, colon + 1), port + offset);
}

class Planner {
 public:
  Planner(const v1::RunConfig& config, const RunLayout& layout, const std::string& binaries)
      : layout_(layout), binaries_(binaries) {
    services_.config = config;
  }

  LocalServices Plan() {
    const v1::RunConfig given = services_.config;
    // Stages whose held-out rows the learner scores itself.
    const bool pairs =
        given.stage() == v1::STAGE_REWARD_MODEL || config::LearnsFromPreferences(given.stage());
    const bool evaluates =
        !pairs && given.data().evaluation_size() > 0 && given.reward().verifiers_size() > 0;
    const bool generates = (given.stage() != v1::STAGE_SFT && !pairs) || evaluates;
    const bool refers = config::NeedsReferenceService(given);
    if (generates && given.generator().addresses().empty()) PlanGenerators();
    const bool rewards = generates && config::NeedsRewardService(given);
    if (rewards && given.reward().address().empty()) PlanReward();
    if (refers && given.reference().addresses().empty()) PlanReference();
    services_.config.mutable_learner()->set_listen(layout_.Address("learner"));
    services_.config.mutable_learner()->set_rank(0);
    Add("learner", "rollcall-learner", services_.config.learner().listen(),
        given.learner().metrics_listen(), false);
    if (HasRanks(given)) PlanRanks();
    return std::move(services_);
  }

 private:
  void PlanGenerators() {
    v1::GeneratorSection& generator = *services_.config.mutable_generator();
    generator.set_wait_for_weights(true);
    for (uint32_t i = 0; i < generator.replicas(); ++i) {
      const std::string name = absl::StrCat("generator-", i);
      generator.add_addresses(layout_.Address(name));
      Add(name, "rollcall-generator", layout_.Address(name),
          OffsetPort(generator.metrics_listen(), i), true);
    }
  }

  void PlanReward() {
    v1::RewardSection& reward = *services_.config.mutable_reward();
    for (int i = 0; i < reward.verifiers_size(); ++i) {
      if (reward.verifiers(i).has_reward_model()) PlanRewardModel(i);
    }
    reward.set_address(layout_.Address("reward"));
    Add("reward", "rollcall-reward", reward.address(), reward.metrics_listen(), true);
  }

  void PlanRewardModel(int index) {
    v1::VerifierConfig& verifier = *services_.config.mutable_reward()->mutable_verifiers(index);
    v1::RewardModelVerifier& model = *verifier.mutable_reward_model();
    if (!model.address().empty()) return;
    const std::string name = absl::StrCat("reward-model-", index);
    model.set_address(layout_.Address(name));
    Add(name, "rollcall-reward-model", model.address(), model.metrics_listen(), true);
    std::vector<std::string>& argv = services_.specs.back().child.argv;
    argv.insert(argv.end(), {"--verifier", verifier.name()});
  }

  void PlanReference() {
    v1::ReferenceSection& reference = *services_.config.mutable_reference();
    reference.add_addresses(layout_.Address("reference"));
    Add("reference", "rollcall-reference", reference.addresses(0), reference.metrics_listen(),
        true);
  }

  void PlanRanks() {
    const v1::LearnerSection& learner = services_.config.learner();
    for (uint32_t rank = 1; rank < learner.ranks(); ++rank) {
      const std::string name = absl::StrCat("learner-", rank);
      Add(name, "rollcall-learner", layout_.Address(name),
          OffsetPort(learner.metrics_listen(), rank), false);
      services_.specs.back().rank = true;
      std::vector<std::string>& argv = services_.specs.back().child.argv;
      argv.insert(argv.end(), {"--set", absl::StrCat("learner.rank=", rank)});
    }
  }

  void Add(const std::string& name, const std::string& binary, const std::string& address,
           const std::string& metrics, bool stateless) {
    ServiceSpec spec;
    spec.stateless = stateless;
    spec.child.name = name;
    spec.child.log_path = layout_.LogPath(name);
    spec.child.argv = {absl::StrCat(binaries_, "/", binary), "--config", layout_.config_path,
                       "--listen", address};
    if (!metrics.empty())
      spec.child.argv.insert(spec.child.argv.end(), {"--metrics-listen", metrics});
    services_.specs.push_back(std::move(spec));
  }

  const RunLayout& layout_;
  const std::string& binaries_;
  LocalServices services_;
};

}  // namespace

LocalServices PlanLocalServices(const v1::RunConfig& config, const RunLayout& layout,
                                const std::string& binaries) {
  return Planner(config, layout, binaries).Plan();
}

bool HasRanks(const v1::RunConfig& config) {
  return config.learner().ranks() > 1 && config.stage() != v1::STAGE_EVAL;
}

absl::StatusOr<std::string> FreeLoopbackAddress() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  const bool found =
      fd >= 0 && bind(fd, generic, length) == 0 && getsockname(fd, generic, &length) == 0;
  const absl::Status error =
      found ? absl::OkStatus() : absl::ErrnoToStatus(errno, "no free port on 127.0.0.1");
  if (fd >= 0) close(fd);
  if (!found) return error;
  return absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
}

absl::StatusOr<std::string> OwnFolder() {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return absl::InternalError(absl::StrCat("/proc/self/exe: ", error.message()));
  return self.parent_path().string();
}

}  // namespace rollcall::cli
