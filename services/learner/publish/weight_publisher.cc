#include "services/learner/publish/weight_publisher.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/logging.h"
#include "common/base/status.h"
#include "services/learner/publish/numerics.h"

namespace rollcall::learner {
namespace {

bool SameVersion(const v1::PolicyVersion& a, const v1::PolicyVersion& b) {
  return a.run_id() == b.run_id() && a.lineage() == b.lineage() && a.step() == b.step() &&
         a.manifest_hash() == b.manifest_hash();
}

}  // namespace

WeightPublisher::WeightPublisher(PublisherOptions options, std::vector<std::string> addresses,
                                 const std::vector<std::shared_ptr<grpc::Channel>>& channels,
                                 GeneratorObserver* observer, Clock* clock)
    : options_(std::move(options)), observer_(observer), clock_(clock), links_(channels.size()) {
  for (size_t i = 0; i < channels.size(); ++i) {
    links_[i].address = std::move(addresses[i]);
    links_[i].transfer = std::make_unique<WeightTransfer>(channels[i]);
  }
  for (size_t i = 0; i < links_.size(); ++i) {
    links_[i].thread = std::thread([this, i] { Run(i); });
  }
}

WeightPublisher::~WeightPublisher() { Stop(); }

void WeightPublisher::Publish(PreparedVersionPtr version) {
  absl::MutexLock lock(&mutex_);
  target_ = std::move(version);
}

void WeightPublisher::CheckSoon(size_t generator) {
  absl::MutexLock lock(&mutex_);
  links_[generator].check_soon = true;
}

void WeightPublisher::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  for (Link& link : links_) link.transfer->Cancel();
  for (Link& link : links_) {
    if (link.thread.joinable()) link.thread.join();
  }
}

void WeightPublisher::Run(size_t generator) {
  PreparedVersionPtr target;
  absl::Duration pause = absl::ZeroDuration();
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      const auto wake = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
        return stopping_ || target_ != target || links_[generator].check_soon;
      };
      clock_->AwaitWithDeadline(&mutex_, absl::Condition(&wake), clock_->Now() + pause);
      if (stopping_) return;
      target = target_;
      links_[generator].check_soon = false;
    }
    pause = Tend(generator, target);
  }
}

absl::Duration WeightPublisher::Tend(size_t generator, const PreparedVersionPtr& target) {
  Link& link = links_[generator];
  const absl::StatusOr<v1::ServerState> state = link.transfer->GetState();
  if (!state.ok()) return Unusable(generator, std::string(state.status().message()));
  if (options_.required_numerics && state->has_numerics() &&
      !SameNumerics(state->numerics(), *options_.required_numerics)) {
    Fatal(generator, absl::FailedPreconditionError(absl::StrCat(
                         "computes with other numerics (", Describe(state->numerics()),
                         ") than the learner (", Describe(*options_.required_numerics),
                         "), so log-probs cannot agree bit for bit; set numerics: fast to train "
                         "anyway")));
    return options_.poll_interval;
  }
  if (target == nullptr) return Unusable(generator, "no version has been published yet");
  if (SameVersion(state->version(), target->version)) {
    if (!state->ready()) return Unusable(generator, "holds the version but is not ready");
    observer_->OnServing(generator, target->version.step());
    return options_.poll_interval;
  }

  observer_->OnUnusable(generator, absl::StrCat("is being sent step ", target->version.step()));
  const absl::Time start = absl::Now();
  const absl::Status sent = link.transfer->Send(*target);
  if (link.transfer->fenced()) {
    Fatal(generator, sent);
    return options_.poll_interval;
  }
  if (!sent.ok()) {
    LogWarning("weights were not delivered",
               {{"generator", link.address}, {"step", target->version.step()}, {"error", sent}});
    return Unusable(generator, std::string(sent.message()));
  }
  if (options_.on_sent) options_.on_sent(absl::Now() - start, target->TotalBytes());
  LogDebug("weights delivered", {{"generator", link.address},
                                 {"step", target->version.step()},
                                 {"seconds", absl::Now() - start}});
  // What it says itself decides whether it gets work.
  const absl::StatusOr<v1::ServerState> after = link.transfer->GetState();
  if (!after.ok()) return Unusable(generator, std::string(after.status().message()));
  if (!SameVersion(after->version(), target->version) || !after->ready()) {
    return Unusable(generator, absl::StrCat("does not serve step ", target->version.step(),
                                            " although it took it"));
  }
  observer_->OnServing(generator, target->version.step());
  return options_.poll_interval;
}

absl::Duration WeightPublisher::Unusable(size_t generator, const std::string& why) {
  observer_->OnUnusable(generator, why);
  return options_.retry_interval;
}

void WeightPublisher::Fatal(size_t generator, const absl::Status& status) {
  const absl::Status annotated =
      Annotate(status, absl::StrCat("generator ", links_[generator].address));
  observer_->OnUnusable(generator, std::string(status.message()));
  observer_->OnFatal(annotated);
}

}  // namespace rollcall::learner
