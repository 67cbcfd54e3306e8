#include "services/learner/rollout/group_runner.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "common/base/logging.h"

namespace rollcall::learner {

struct GroupRunner::Job {
  Job(GroupRun group_run, Done on_done) : run(std::move(group_run)), done(std::move(on_done)) {}

  GroupRun run;
  Done done;
  // Calls in flight. While kGenerate is among them, gRPC's thread owns run.assembly().
  std::map<GroupRun::Call, CancelCall> calls;
  std::optional<size_t> generator;  // that serves or last served it
  std::optional<size_t> failed_on;  // generator to avoid next
  bool broken_contract = false;     // set by gRPC's thread, read after the call's end
  absl::Status contract_error;      // likewise
};

GroupRunner::GroupRunner(const GroupRunnerOptions& options, const RolloutServices& services,
                         GeneratorPool* pool, const PublishedVersions* versions, DecodeFn decode,
                         std::function<void(size_t)> on_generator_fault, Clock* clock)
    : options_(options),
      pool_(pool),
      versions_(versions),
      decode_(std::move(decode)),
      on_generator_fault_(std::move(on_generator_fault)),
      clock_(clock),
      reward_address_(services.reward_address),
      reference_addresses_(services.reference_addresses),
      reference_load_(services.references.size()) {
  for (const auto& channel : services.generators) {
    generators_.push_back(v1::Generator::NewStub(channel));
  }
  if (services.reward) reward_ = v1::Verifier::NewStub(services.reward);
  for (const auto& channel : services.references) {
    references_.push_back(v1::LogProb::NewStub(channel));
  }
  thread_ = std::thread([this] { Run(); });
}

GroupRunner::~GroupRunner() { Stop(); }

void GroupRunner::Post(std::function<void()> event) {
  absl::MutexLock lock(&mutex_);
  events_.push_back(std::move(event));
}

void GroupRunner::Poke() {
  Post([] {});
}

void GroupRunner::PinReference(std::string manifest_hash) {
  Post([this, hash = std::move(manifest_hash)] { reference_hash_ = hash; });
}

void GroupRunner::NoteFault(const char* service, const std::string& address,
                            const absl::Status& status) {
  last_fault_ = absl::StrCat(address, ": ", std::string(status.message()));
  if (options_.on_fault) options_.on_fault(service, status);
}

void GroupRunner::Submit(GroupSpec spec, Done done) {
  auto job = std::make_shared<std::unique_ptr<Job>>(std::make_unique<Job>(
      GroupRun(std::move(spec), options_.max_attempts, options_.vocab_size, versions_, decode_),
      std::move(done)));
  bool ended = false;
  {
    absl::MutexLock lock(&mutex_);
    ended = ended_;
    if (!ended) {
      events_.push_back([this, id = next_id_++, job] {
        GroupRun& run = (*job)->run;
        jobs_[id] = std::move(*job);
        if (stopping_) run.Drop(kShutdown, "the run is being stopped");
        if (!run.finished()) Perform(id, run.Start());
        EndIfFinished(id);
      });
    }
  }
  if (ended) {
    (*job)->run.Drop(kShutdown, "the run is being stopped");
    (*job)->done((*job)->run.TakeGroup());
  }
}

void GroupRunner::Stop() {
  Post([this] { StopJobs(); });
  if (thread_.joinable()) thread_.join();
}

void GroupRunner::Run() {
  while (true) {
    std::deque<std::function<void()>> events;
    {
      absl::MutexLock lock(&mutex_);
      const absl::Time deadline = timers_.empty() ? absl::InfiniteFuture() : timers_.begin()->first;
      clock_->AwaitWithDeadline(&mutex_, absl::Condition(this, &GroupRunner::HasEvents), deadline);
      events.swap(events_);
    }
    for (const std::function<void()>& event : events) event();
    FireTimers();
    AssignGenerators();
    if (stopping_ && jobs_.empty() && outstanding_calls_ == 0) {
      absl::MutexLock lock(&mutex_);
      if (events_.empty()) {
        ended_ = true;
        return;
      }
    }
  }
}

void GroupRunner::FireTimers() {
  while (!timers_.empty() && timers_.begin()->first <= clock_->Now()) {
    const auto [id, call] = timers_.begin()->second;
    timers_.erase(timers_.begin());
    StartCall(id, call);
  }
}

void GroupRunner::Perform(uint64_t id, const GroupRun::Actions& actions) {
  for (const GroupRun::Action& action : actions) {
    if (action.delay <= absl::ZeroDuration()) {
      StartCall(id, action.call);
    } else {
      timers_.emplace(clock_->Now() + action.delay, std::pair(id, action.call));
    }
  }
}

void GroupRunner::StartCall(uint64_t id, GroupRun::Call call) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end() || stopping_) return;
  switch (call) {
    case GroupRun::Call::kGenerate:
      want_generator_.insert(id);
      break;
    case GroupRun::Call::kScore:
      Score(id, *found->second);
      break;
    case GroupRun::Call::kReference:
      Reference(id, *found->second);
      break;
  }
}

void GroupRunner::AssignGenerators() {
  const std::optional<v1::PolicyVersion> version = versions_->Current();
  if (!version || stopping_) return;
  while (!want_generator_.empty()) {
    const uint64_t id = *want_generator_.begin();
    Job& job = *jobs_.at(id);
    const std::optional<size_t> generator =
        pool_->Acquire(version->step(), job.run.spec().num_samples, job.failed_on);
    if (!generator) return;
    want_generator_.erase(want_generator_.begin());
    Generate(id, job, *generator, *version);
  }
}

void GroupRunner::Generate(uint64_t id, Job& job, size_t generator,
                           const v1::PolicyVersion& version) {
  job.generator = generator;
  job.broken_contract = false;
  ++outstanding_calls_;
  job.calls[GroupRun::Call::kGenerate] = StartGenerate(
      *generators_[generator], job.run.MakeGenerateRequest(version), options_.generate_timeout,
      [&job](const v1::GenerateResponse& message) {
        job.contract_error = job.run.assembly().OnMessage(message);
        job.broken_contract = !job.contract_error.ok();
        return !job.broken_contract;
      },
      [this, id, generator, &job](CallOutcome outcome) {
        const bool broken = job.broken_contract;
        if (broken) outcome.status = job.contract_error;
        Post([this, id, generator, broken, outcome = std::move(outcome)] {
          --outstanding_calls_;
          OnGenerateDone(id, generator, outcome, broken);
        });
      });
}

void GroupRunner::OnGenerateDone(uint64_t id, size_t generator, const CallOutcome& outcome,
                                 bool broken) {
  Job& job = *jobs_.at(id);  // a job outlives its Generate stream
  pool_->Release(generator, job.run.spec().num_samples);
  job.calls.erase(GroupRun::Call::kGenerate);
  if (!outcome.status.ok() && !stopping_) {
    job.failed_on = generator;
    NoteFault("generator", pool_->address(generator), outcome.status);
    if (!IsBackPressure(outcome.status)) {
      LogWarning("generation was cut off", {{"group", job.run.spec().group_id},
                                            {"generator", pool_->address(generator)},
                                            {"error", outcome.status}});
    }
    if (absl::IsUnavailable(outcome.status) || absl::IsFailedPrecondition(outcome.status)) {
      pool_->MarkUnusable(generator, std::string(outcome.status.message()));
    }
    on_generator_fault_(generator);
  }
  if (stopping_) {
    job.run.Drop(kShutdown, "the run is being stopped");
  } else {
    Perform(id, job.run.OnGenerateDone(outcome, broken));
  }
  EndIfFinished(id);
}

void GroupRunner::Score(uint64_t id, Job& job) {
  ++outstanding_calls_;
  job.calls[GroupRun::Call::kScore] =
      StartScore(*reward_, job.run.MakeScoreRequest(), options_.score_timeout,
                 [this, id](CallOutcome outcome, v1::ScoreResponse response) {
                   Post([this, id, outcome = std::move(outcome), response = std::move(response)] {
                     --outstanding_calls_;
                     const auto found = jobs_.find(id);
                     if (found == jobs_.end()) return;
                     if (!outcome.status.ok()) {
                       NoteFault("reward", reward_address_, outcome.status);
                     }
                     found->second->calls.erase(GroupRun::Call::kScore);
                     Perform(id, found->second->run.OnScoreDone(outcome, response));
                     EndIfFinished(id);
                   });
                 });
}

void GroupRunner::Reference(uint64_t id, Job& job) {
  const size_t reference =
      std::min_element(reference_load_.begin(), reference_load_.end()) - reference_load_.begin();
  ++reference_load_[reference];
  ++outstanding_calls_;
  v1::LogProbRequest request = job.run.MakeReferenceRequest();
  request.set_manifest_hash(reference_hash_);
  job.calls[GroupRun::Call::kReference] = StartLogProbs(
      *references_[reference], std::move(request), options_.logprob_timeout,
      [this, id, reference](CallOutcome outcome, v1::LogProbResponse response) {
        Post([this, id, reference, outcome = std::move(outcome), response = std::move(response)] {
          --outstanding_calls_;
          --reference_load_[reference];
          const auto found = jobs_.find(id);
          if (found == jobs_.end()) return;
          if (!outcome.status.ok()) {
            NoteFault("reference", reference_addresses_[reference], outcome.status);
          }
          found->second->calls.erase(GroupRun::Call::kReference);
          Perform(id, found->second->run.OnReferenceDone(outcome, response));
          EndIfFinished(id);
        });
      });
}

void GroupRunner::EndIfFinished(uint64_t id) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end() || !found->second->run.finished()) return;
  const std::unique_ptr<Job> job = std::move(found->second);
  jobs_.erase(found);
  want_generator_.erase(id);
  for (const auto& [call, cancel] : job->calls) cancel();
  job->done(job->run.TakeGroup());
}

void GroupRunner::StopJobs() {
  stopping_ = true;
  timers_.clear();
  want_generator_.clear();
  std::vector<uint64_t> ids;
  for (const auto& [id, job] : jobs_) ids.push_back(id);
  for (const uint64_t id : ids) {
    Job& job = *jobs_.at(id);
    const auto generating = job.calls.find(GroupRun::Call::kGenerate);
    if (generating != job.calls.end()) {
      generating->second();  // ends in OnGenerateDone, which drops it
      continue;
    }
    job.run.Drop(kShutdown, "the run is being stopped");
    EndIfFinished(id);
  }
}

std::string GroupRunner::DescribeWaiting() {
  auto text = std::make_shared<std::string>();
  auto done = std::make_shared<absl::Notification>();
  {
    absl::MutexLock lock(&mutex_);
    if (ended_) return "nothing: the run is being stopped";
    events_.push_back([this, text, done] {
      *text = Summarize();
      done->Notify();
    });
  }
  done->WaitForNotification();
  return *text;
}

std::string GroupRunner::Summarize() const {
  std::map<std::string, size_t> groups;
  const std::optional<v1::PolicyVersion> version = versions_->Current();
  for (const auto& [id, job] : jobs_) {
    if (want_generator_.contains(id)) {
      ++groups[absl::StrCat("wait for a generator",
                            version ? absl::StrCat(" that serves step ", version->step(), " (",
                                                   pool_->DescribeMissing(version->step()), ")")
                                    : std::string())];
    } else if (job->calls.contains(GroupRun::Call::kGenerate)) {
      ++groups[absl::StrCat("are being generated by ", pool_->address(*job->generator))];
    } else if (job->calls.contains(GroupRun::Call::kScore)) {
      ++groups[absl::StrCat("wait for the reward service at ", reward_address_)];
    } else if (job->calls.contains(GroupRun::Call::kReference)) {
      ++groups["wait for log-probs of the reference"];
    } else {
      ++groups["wait to be tried again"];
    }
  }
  std::string text;
  for (const auto& [what, count] : groups) {
    absl::StrAppend(&text, text.empty() ? "" : "; ", count, " groups ", what);
  }
  if (!last_fault_.empty()) absl::StrAppend(&text, "; the last fault: ", last_fault_);
  return text;
}

}  // namespace rollcall::learner
