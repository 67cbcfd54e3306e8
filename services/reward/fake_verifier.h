#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "rollcall/v1/verifier.grpc.pb.h"

namespace rollcall::reward {

// A verifier process as tests need one: answers what `answer` says, on a real server at a free
// port. By default every sample scores the length of its text.
class FakeVerifier : public v1::Verifier::CallbackService {
 public:
  // `call` counts from 1. nullopt holds the call until it is cancelled.
  using Answer = std::function<std::optional<grpc::Status>(int call, const v1::ScoreRequest&,
                                                           v1::ScoreResponse*)>;

  explicit FakeVerifier(Answer answer = ScoreLengths) : answer_(std::move(answer)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeVerifier() override { Stop(); }

  static grpc::Status ScoreLengths(int, const v1::ScoreRequest& request,
                                   v1::ScoreResponse* response) {
    for (const v1::VerifierGroup& group : request.groups()) {
      v1::GroupResult* result = response->add_groups();
      result->set_group_id(group.group_id());
      for (const v1::VerifierSample& sample : group.samples()) {
        v1::SampleResult* out = result->add_samples();
        out->set_index(sample.index());
        out->mutable_score()->set_value(static_cast<double>(sample.text().size()));
      }
    }
    return grpc::Status::OK;
  }

  // Every call ends with this status.
  static Answer Fail(grpc::StatusCode code, const std::string& message) {
    return [code, message](int, const v1::ScoreRequest&, v1::ScoreResponse*) {
      return grpc::Status(code, message);
    };
  }

  static std::optional<grpc::Status> Hold(int, const v1::ScoreRequest&, v1::ScoreResponse*) {
    return std::nullopt;
  }

  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext*, const v1::ScoreRequest* request,
                                  v1::ScoreResponse* response) override {
    int call = 0;
    {
      absl::MutexLock lock(&mutex_);
      requests_.push_back(*request);
      call = static_cast<int>(requests_.size());
    }
    auto* reactor = new Reactor(this);
    const std::optional<grpc::Status> status = answer_(call, *request, response);
    if (status) {
      reactor->FinishOnce(*status);
    } else {
      absl::MutexLock lock(&mutex_);
      ++held_;
    }
    return reactor;
  }

  grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context,
                                     const v1::DescribeRequest*,
                                     v1::VerifierDescription* response) override {
    response->set_name("fake");
    response->set_version(version);
    response->add_columns("tests");
    response->add_components("passed");
    response->set_min_score(-1);
    response->set_max_score(3);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  // False when `count` calls are not held, or were not cancelled, within half a minute.
  bool AwaitHeld(int count) { return AwaitCount(&held_, count); }
  bool AwaitCancelled(int count) { return AwaitCount(&cancelled_, count); }

  void Stop() {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
    server_.reset();
  }

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  std::shared_ptr<v1::Verifier::StubInterface> NewStub() const {
    return v1::Verifier::NewStub(
        grpc::CreateChannel(address(), grpc::InsecureChannelCredentials()));
  }
  std::vector<v1::ScoreRequest> requests() const {
    absl::MutexLock lock(&mutex_);
    return requests_;
  }

  std::string version = "1";

 private:
  struct Reactor : grpc::ServerUnaryReactor {
    explicit Reactor(FakeVerifier* the_fake) : fake(the_fake) {}
    bool FinishOnce(const grpc::Status& status) {
      if (finished.exchange(true)) return false;
      Finish(status);
      return true;
    }
    void OnCancel() override {
      {
        absl::MutexLock lock(&fake->mutex_);
        ++fake->cancelled_;
      }
      FinishOnce(grpc::Status::CANCELLED);
    }
    void OnDone() override { delete this; }

    FakeVerifier* const fake;
    std::atomic<bool> finished = false;
  };

  bool AwaitCount(const int* counter, int count) {
    absl::MutexLock lock(&mutex_);
    auto reached = [counter, count] { return *counter >= count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&reached), absl::Seconds(30));
  }

  const Answer answer_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;

  mutable absl::Mutex mutex_;
  std::vector<v1::ScoreRequest> requests_ ABSL_GUARDED_BY(mutex_);
  int held_ = 0;
  int cancelled_ = 0;
};

}  // namespace rollcall::reward
