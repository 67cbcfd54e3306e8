#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/channel.h>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "rollcall/v1/identity.pb.h"
#include "services/learner/publish/prepared_version.h"
#include "services/learner/publish/weight_transfer.h"

namespace rollcall::learner {

// What the publisher finds out about a generator; called on its threads, without a lock.
class GeneratorObserver {
 public:
  virtual ~GeneratorObserver() = default;
  virtual void OnServing(size_t generator, uint64_t step) = 0;
  virtual void OnUnusable(size_t generator, const std::string& why) = 0;
  // Nothing can be published any more: this learner is fenced (a later lineage or another run holds
  // the generator), or the generator cannot serve this run. FAILED_PRECONDITION or
  // INVALID_ARGUMENT.
  virtual void OnFatal(const absl::Status& status) = 0;
};

struct PublisherOptions {
  // How often a serving generator is looked at; one that restarted is found at the latest then.
  absl::Duration poll_interval = absl::Seconds(1);
  // How often one that cannot be reached is tried.
  absl::Duration retry_interval = absl::Milliseconds(200);
  // Exact mode: a generator with another numerics fingerprint is fatal. Unset: any will do.
  std::optional<v1::NumericsFingerprint> required_numerics = {};
  // A version was brought to a generator; called on the publisher's threads, without a lock.
  std::function<void(absl::Duration took, uint64_t bytes)> on_sent = nullptr;
};

// Brings every generator to the current version and keeps it there, also one that comes up later or
// restarts. One thread per generator, so a slow or dead one delays no other. Thread-safe.
class WeightPublisher {
 public:
  // `addresses` and `channels` in the same order; `observer` must outlive the publisher.
  WeightPublisher(PublisherOptions options, std::vector<std::string> addresses,
                  const std::vector<std::shared_ptr<grpc::Channel>>& channels,
                  GeneratorObserver* observer, Clock* clock = Clock::Real());
  // Stops.
  ~WeightPublisher();

  // Makes `version` the one that every generator is to serve. Never blocks; a transfer of an older
  // version in progress is finished first.
  void Publish(PreparedVersionPtr version) ABSL_LOCKS_EXCLUDED(mutex_);

  // Looks at this generator now: a call to it just failed.
  void CheckSoon(size_t generator) ABSL_LOCKS_EXCLUDED(mutex_);

  // Cancels transfers and joins the threads.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Link {
    std::string address;
    std::unique_ptr<WeightTransfer> transfer;
    bool check_soon = false;  // guarded by mutex_
    std::thread thread;
  };

  void Run(size_t generator);
  // One look at the generator, with a transfer where it lacks the version. Returns when to look
  // again.
  absl::Duration Tend(size_t generator, const PreparedVersionPtr& target);
  absl::Duration Unusable(size_t generator, const std::string& why);
  void Fatal(size_t generator, const absl::Status& status);

  const PublisherOptions options_;
  GeneratorObserver* const observer_;
  Clock* const clock_;

  absl::Mutex mutex_;
  PreparedVersionPtr target_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  std::vector<Link> links_;  // constant but for the fields that say otherwise
};

}  // namespace rollcall::learner
