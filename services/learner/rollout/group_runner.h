#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/channel.h>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "services/learner/publish/published_versions.h"
#include "services/learner/rollout/calls.h"
#include "services/learner/rollout/generator_pool.h"
#include "services/learner/rollout/group_run.h"

namespace rollcall::learner {

struct GroupRunnerOptions {
  uint32_t max_attempts = 5;
  uint32_t vocab_size = 0;
  absl::Duration generate_timeout = absl::Minutes(10);
  absl::Duration score_timeout = absl::Minutes(2);
  absl::Duration logprob_timeout = absl::Minutes(5);
  // Told, on the runner's thread, of every call that failed: "generator", "reward" or "reference",
  // and the status. Back-pressure is one of them. May be null.
  std::function<void(const char* service, const absl::Status& status)> on_fault;
};

// Where the services are. Channels are in the order of the pool's generators.
struct RolloutServices {
  std::vector<std::shared_ptr<grpc::Channel>> generators;
  std::shared_ptr<grpc::Channel> reward;
  std::string reward_address;
  std::vector<std::shared_ptr<grpc::Channel>> references;
  std::vector<std::string> reference_addresses;
};

// Carries any number of groups through their life (GroupRun) at once: the thin shell that makes the
// calls GroupRun asks for. One thread of its own takes every decision; gRPC's threads only hand it
// events. Thread-safe.
class GroupRunner {
 public:
  // Receives the finished record on the runner's thread; must not block on the runner.
  using Done = std::function<void(v1::Group)>;

  // `pool`, `versions` and `clock` must outlive the runner. `on_generator_fault` is told, on the
  // runner's thread, which generator just failed, so that its state can be looked at.
  GroupRunner(const GroupRunnerOptions& options, const RolloutServices& services,
              GeneratorPool* pool, const PublishedVersions* versions, DecodeFn decode,
              std::function<void(size_t)> on_generator_fault, Clock* clock = Clock::Real());
  // Stops.
  ~GroupRunner();

  // Never blocks. After Stop the group ends at once as dropped(shutdown).
  void Submit(GroupSpec spec, Done done);

  // From now on reference calls ask for exactly these weights, 32 bytes: a reference that comes back
  // with others refuses instead of answering for another model.
  void PinReference(std::string manifest_hash);

  // A generator became usable, or another version became current.
  void Poke();

  // Cancels everything; what is in flight ends as dropped(shutdown), and every `done` has been
  // called on return.
  void Stop();

  // What unfinished groups wait for, in words; blocks for the runner's current event.
  std::string DescribeWaiting();

 private:
  struct Job;
  struct Timer;

  void Run();
  void Post(std::function<void()> event) ABSL_LOCKS_EXCLUDED(mutex_);
  bool HasEvents() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !events_.empty(); }

  // All of these run on the runner's thread.
  void FireTimers();
  void Perform(uint64_t id, const GroupRun::Actions& actions);
  void StartCall(uint64_t id, GroupRun::Call call);
  void AssignGenerators();
  void Generate(uint64_t id, Job& job, size_t generator, const v1::PolicyVersion& version);
  void Score(uint64_t id, Job& job);
  void Reference(uint64_t id, Job& job);
  void OnGenerateDone(uint64_t id, size_t generator, const CallOutcome& outcome, bool broken);
  void EndIfFinished(uint64_t id);
  void NoteFault(const char* service, const std::string& address, const absl::Status& status);
  void StopJobs();
  std::string Summarize() const;

  const GroupRunnerOptions options_;
  GeneratorPool* const pool_;
  const PublishedVersions* const versions_;
  const DecodeFn decode_;
  const std::function<void(size_t)> on_generator_fault_;
  Clock* const clock_;
  const std::string reward_address_;
  const std::vector<std::string> reference_addresses_;
  std::vector<std::unique_ptr<v1::Generator::Stub>> generators_;
  std::unique_ptr<v1::Verifier::Stub> reward_;
  std::vector<std::unique_ptr<v1::LogProb::Stub>> references_;

  // The runner's thread only.
  std::map<uint64_t, std::unique_ptr<Job>> jobs_;
  std::set<uint64_t> want_generator_;  // oldest first
  std::multimap<absl::Time, std::pair<uint64_t, GroupRun::Call>> timers_;
  std::vector<uint64_t> reference_load_;  // outstanding calls
  size_t outstanding_calls_ = 0;
  bool stopping_ = false;
  std::string last_fault_;
  std::string reference_hash_;  // empty: any

  absl::Mutex mutex_;
  std::deque<std::function<void()>> events_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread thread_;  // last: it uses the fields above
};

}  // namespace rollcall::learner
