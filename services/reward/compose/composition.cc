#include "services/reward/compose/composition.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/base/status.h"
#include "common/wire/sha256.h"
#include "services/reward/compose/remote_verifier.h"

namespace rollcall::reward {
namespace {

// The answers of several calls of one kind, gathered until all are there. It is kept alive by the
// calls themselves.
template <typename Answer>
class Gathering : public std::enable_shared_from_this<Gathering<Answer>> {
 public:
  using AllDone = std::function<void(std::vector<Answer>)>;

  Gathering(size_t count, AllDone done) : missing_(count), done_(std::move(done)) {
    answers_.resize(count);
  }

  void Set(size_t index, Answer answer) ABSL_LOCKS_EXCLUDED(mutex_) {
    {
      absl::MutexLock lock(&mutex_);
      answers_[index] = std::move(answer);
      if (--missing_ > 0) return;
    }
    // The last one: nobody else touches the fields any more.
    AllDone done = std::move(done_);
    done(std::move(answers_));
  }

 private:
  absl::Mutex mutex_;
  size_t missing_ ABSL_GUARDED_BY(mutex_);
  std::vector<Answer> answers_;
  AllDone done_;
};

Verifier::Cancel CancelAll(std::vector<Verifier::Cancel> cancels) {
  return [cancels = std::move(cancels)] {
    for (const Verifier::Cancel& cancel : cancels) cancel();
  };
}

std::vector<v1::GroupResult> ComposeAll(std::span<const RewardTerm> terms,
                                        const v1::ScoreRequest& request,
                                        const std::vector<std::vector<v1::GroupResult>>& parts) {
  std::vector<v1::GroupResult> composed(request.groups_size());
  std::vector<const v1::SampleResult*> row(terms.size());
  for (int g = 0; g < request.groups_size(); ++g) {
    composed[g].set_group_id(request.groups(g).group_id());
    for (int s = 0; s < request.groups(g).samples_size(); ++s) {
      for (size_t v = 0; v < terms.size(); ++v) row[v] = &parts[v][g].samples(s);
      *composed[g].add_samples() = ComposeSample(terms, row);
    }
  }
  return composed;
}

// Range of `weight` times a score in [low, high], 0 included: an abstention adds nothing.
std::pair<double, double> TermRange(double weight, double low, double high) {
  const auto [least, most] = std::minmax({weight * low, weight * high});
  return {std::min(least, 0.0), std::max(most, 0.0)};
}

// Of what decides a score. Where and how a reward model is served does not: its own version says
// which model it is.
std::string FingerprintOf(const v1::RewardSection& config) {
  std::string bytes;
  for (v1::VerifierConfig verifier : config.verifiers()) {
    if (verifier.has_reward_model()) verifier.mutable_reward_model()->Clear();
    absl::StrAppend(&bytes, verifier.SerializeAsString(), ";");
  }
  return wire::ToHex(wire::Sha256Of(bytes));
}

}  // namespace

Composition::Composition(const v1::RewardSection& config, Clock* clock)
    : clock_(clock), fingerprint_(FingerprintOf(config)), timer_(clock) {}

Composition::~Composition() = default;

absl::StatusOr<std::unique_ptr<Composition>> Composition::Create(const v1::RewardSection& config,
                                                                 const Connect& connect,
                                                                 metrics::Registry& registry,
                                                                 Clock* clock) {
  if (config.verifiers().empty()) {
    return absl::InvalidArgumentError("reward.verifiers: needs at least one verifier");
  }
  std::unique_ptr<Composition> composition(new Composition(config, clock));
  for (int i = 0; i < config.verifiers_size(); ++i) {
    const v1::VerifierConfig& verifier = config.verifiers(i);
    const std::string path = absl::StrCat("reward.verifiers[", i, "]");
    composition->terms_.emplace_back(verifier);
    composition->metrics_.push_back(std::make_unique<VerifierMetrics>(registry, verifier.name()));
    if (!verifier.has_remote() && !verifier.has_reward_model()) {
      auto rule = MakeRule(verifier);
      if (!rule.ok()) {
        return absl::InvalidArgumentError(
            absl::StrCat(path, ".", std::string(rule.status().message())));
      }
      composition->verifiers_.push_back(
          std::make_unique<RuleVerifier>(verifier.name(), *std::move(rule)));
      composition->start_order_.push_back(i);
      continue;
    }
    const bool is_model = verifier.has_reward_model();
    const std::string& address =
        is_model ? verifier.reward_model().address() : verifier.remote().address();
    ROLLCALL_ASSIGN_OR_RETURN(
        auto stub,
        Annotate(connect(address),
                 absl::StrCat(path, is_model ? ".reward_model" : ".remote", ".address")));
    composition->verifiers_.push_back(std::make_unique<RemoteVerifier>(
        RemoteOptions{.name = verifier.name(),
                      .address = address,
                      .timeout = absl::Seconds(verifier.timeout()),
                      .retries = verifier.retries()},
        std::move(stub), &composition->timer_, composition->metrics_.back().get()));
    // Remote verifiers first: they work while the rules compute.
    composition->start_order_.insert(composition->start_order_.begin(), i);
  }
  return composition;
}

Verifier::Cancel Composition::Score(const v1::ScoreRequest& request, absl::Time deadline,
                                    Done done) {
  auto gathering = std::make_shared<Gathering<std::vector<v1::GroupResult>>>(
      verifiers_.size(), [this, &request, done = std::move(done)](
                             const std::vector<std::vector<v1::GroupResult>>& parts) {
        done(ComposeAll(terms_, request, parts));
      });
  std::vector<Verifier::Cancel> cancels(verifiers_.size());
  for (const size_t i : start_order_) {
    const absl::Time start = clock_->Now();
    cancels[i] = verifiers_[i]->Score(
        request, deadline, [gathering, i, start, this](std::vector<v1::GroupResult> results) {
          VerifierMetrics& metrics = *metrics_[i];
          metrics.seconds.Observe(absl::ToDoubleSeconds(clock_->Now() - start));
          for (const v1::GroupResult& group : results) {
            for (const v1::SampleResult& sample : group.samples()) metrics.outcomes.Count(sample);
          }
          gathering->Set(i, std::move(results));
        });
  }
  return CancelAll(std::move(cancels));
}

Verifier::Cancel Composition::Describe(absl::Time deadline, DescribeDone done) {
  using Answer = absl::StatusOr<v1::VerifierDescription>;
  auto gathering = std::make_shared<Gathering<Answer>>(
      verifiers_.size(), [this, done = std::move(done)](std::vector<Answer> answers) {
        std::vector<v1::VerifierDescription> descriptions;
        for (Answer& answer : answers) {
          if (!answer.ok()) return done(answer.status());
          descriptions.push_back(*std::move(answer));
        }
        done(ComposeDescription(descriptions));
      });
  std::vector<Verifier::Cancel> cancels;
  for (size_t i = 0; i < verifiers_.size(); ++i) {
    cancels.push_back(verifiers_[i]->Describe(
        deadline, [gathering, i](Answer answer) { gathering->Set(i, std::move(answer)); }));
  }
  return CancelAll(std::move(cancels));
}

v1::VerifierDescription Composition::ComposeDescription(
    std::span<const v1::VerifierDescription> descriptions) const {
  v1::VerifierDescription composed;
  composed.set_name("reward");
  std::string versions = fingerprint_;
  std::set<std::string> columns;
  bool bounded = true;
  double low = 0;
  double high = 0;
  std::vector<double> gated;
  for (size_t i = 0; i < terms_.size(); ++i) {
    const v1::VerifierDescription& part = descriptions[i];
    const RewardTerm& term = terms_[i];
    absl::StrAppend(&versions, "\n", part.version());
    columns.insert(part.columns().begin(), part.columns().end());
    composed.add_components(term.name);
    for (const std::string& component : part.components()) {
      composed.add_components(absl::StrCat(term.name, "/", component));
    }
    if (term.gate) gated.push_back(term.reward_if_gated);
    if (term.weight == 0) continue;
    bounded = bounded && part.has_min_score() && part.has_max_score();
    const auto [least, most] = TermRange(term.weight, part.min_score(), part.max_score());
    low += least;
    high += most;
  }
  for (const double value : gated) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  for (const std::string& column : columns) composed.add_columns(column);
  composed.set_version(wire::ToHex(wire::Sha256Of(versions)).substr(0, 16));
  if (bounded) {
    composed.set_min_score(low);
    composed.set_max_score(high);
  }
  return composed;
}

}  // namespace rollcall::reward
