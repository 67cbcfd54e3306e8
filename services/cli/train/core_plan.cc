#include "services/cli/train/core_plan.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/config/algorithm_presets.h"

namespace rollcall::cli {
namespace {

constexpr double kLearnerWeight = 3, kGeneratorsWeight = 3, kScoringWeight = 1;
// A forward pass takes a third of a step's work; with fewer cores than these neither the reference nor
// the learner would get its part.
constexpr uint32_t kFewestToDivide = 4;
constexpr std::string_view kRewardModel = "reward-model-";

// "learner", or "learner-1" of a further rank.
bool IsLearner(std::string_view service) { return service.starts_with("learner"); }

// A service among those that work at the same time.
struct Claim {
  CoreShare* share;
  double weight;
  uint32_t asked_for;  // by the configuration; 0: what there is
};

// The part of the configuration that says a service's threads.
std::string SectionOf(std::string_view service) {
  if (service.starts_with(kRewardModel)) {
    return absl::StrCat("reward.verifiers[", std::string(service.substr(kRewardModel.size())),
                        "].reward_model");
  }
  if (IsLearner(service)) return "learner";
  return service.starts_with("generator") ? "generator" : std::string(service);
}

// Of the reward model that is the verifier of this number.
uint32_t RewardModelThreads(const v1::RunConfig& config, const std::string& number) {
  int index = 0;
  if (!absl::SimpleAtoi(number, &index) || index >= config.reward().verifiers_size()) return 0;
  return config.reward().verifiers(index).reward_model().threads();
}

std::optional<Claim> ClaimOf(const v1::RunConfig& config, CoreShare* share) {
  if (share->service.starts_with(kRewardModel)) {
    return Claim{share, kScoringWeight,
                 RewardModelThreads(config, share->service.substr(kRewardModel.size()))};
  }
  const std::string section = SectionOf(share->service);
  if (section == "learner") {
    return Claim{share, kLearnerWeight / std::max(1u, config.learner().ranks()),
                 config.learner().threads()};
  }
  if (section == "reference") return Claim{share, kScoringWeight, config.reference().threads()};
  if (section != "generator") return std::nullopt;
  const double replicas = std::max(1u, config.generator().replicas());
  return Claim{share, kGeneratorsWeight / replicas, config.generator().threads()};
}

void CountThreads(std::vector<Claim>& claims, uint32_t cores) {
  uint32_t given = 0;
  for (Claim& claim : claims) {
    claim.share->threads = std::clamp(claim.asked_for, 1u, cores);
    given += claim.share->threads;
  }
  // The rest goes core by core to whoever has least for its weight.
  for (; given < cores; ++given) {
    Claim* poorest = nullptr;
    for (Claim& claim : claims) {
      if (claim.asked_for > 0) continue;
      if (poorest == nullptr ||
          claim.share->threads / claim.weight < poorest->share->threads / poorest->weight) {
        poorest = &claim;
      }
    }
    if (poorest == nullptr) return;
    ++poorest->share->threads;
  }
}

void Divide(std::vector<Claim> claims, const MachineLimits& limits) {
  CountThreads(claims, limits.usable_cores());
  if (limits.usable_cores() < limits.cores.size()) return;
  size_t next = 0;
  for (Claim& claim : claims) {
    for (uint32_t i = 0; i < claim.share->threads; ++i) {
      claim.share->cores.push_back(limits.cores[next++ % limits.cores.size()]);
    }
    std::sort(claim.share->cores.begin(), claim.share->cores.end());
  }
}

}  // namespace

std::vector<CoreShare> PlanCores(const v1::RunConfig& config,
                                 const std::vector<std::string>& services,
                                 const MachineLimits& limits) {
  std::vector<CoreShare> plan;
  for (const std::string& service : services) {
    CoreShare share{.service = service, .threads = 0, .cores = {}};
    if (ClaimOf(config, &share).has_value()) plan.push_back(std::move(share));
  }
  const bool overlaps =
      config.stage() == v1::STAGE_RL
          ? config.learner().max_staleness() > 0
          : config::NeedsReferenceService(config) && limits.usable_cores() >= kFewestToDivide;
  std::vector<Claim> sampling, training;
  for (CoreShare& share : plan) {
    const bool trains = IsLearner(share.service) && !overlaps;
    (trains ? training : sampling).push_back(*ClaimOf(config, &share));
  }
  Divide(std::move(sampling), limits);
  Divide(std::move(training), limits);
  return plan;
}

void ApplyCorePlan(const std::vector<CoreShare>& plan, std::vector<ServiceSpec>* specs) {
  for (const CoreShare& share : plan) {
    for (ServiceSpec& spec : *specs) {
      if (spec.child.name != share.service) continue;
      spec.child.cores = share.cores;
      spec.child.argv.insert(
          spec.child.argv.end(),
          {"--set", absl::StrCat(SectionOf(share.service), ".threads=", share.threads)});
    }
  }
}

std::string Describe(const std::vector<CoreShare>& plan) {
  return absl::StrJoin(plan, "; ", [](std::string* out, const CoreShare& share) {
    absl::StrAppend(out, share.service, " ", share.threads, " thread",
                    share.threads == 1 ? "" : "s");
    if (!share.cores.empty()) absl::StrAppend(out, " on ", absl::StrJoin(share.cores, ","));
  });
}

}  // namespace rollcall::cli
