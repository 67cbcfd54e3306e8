#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "absl/synchronization/notification.h"
#include "common/base/clock.h"
#include "common/metrics/registry.h"
#include "services/reference/engine/scorer.h"
#include "services/reference/service.h"
#include "services/reference/validate.h"

namespace rollcall::reference {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ScoreJobPtr Job(const std::vector<size_t>& lengths) {
  auto job = std::make_shared<ScoreJob>();
  for (const size_t length : lengths) {
    job->sequences.push_back({std::vector<uint32_t>(length, 1), 1});
  }
  job->done = [](const ScoreJob::Result&) {};
  return job;
}

TEST(ValidateTest, NamesTheField) {
  const ModelLimits limits{.vocab_size = 10, .context_length = 4};
  const auto refusal = [&](const std::function<void(v1::LogProbRequest&)>& spoil) {
    v1::LogProbRequest request;
    for (const uint32_t id : {1, 2, 3}) request.add_sequences()->add_token_ids(id);
    for (auto& sequence : *request.mutable_sequences()) {
      sequence.add_token_ids(4);
      sequence.add_token_ids(5);
    }
    spoil(request);
    const auto job = ParseRequest(request, limits);
    return std::string(job.status().message());
  };
  EXPECT_EQ(refusal([](auto&) {}), "");
  EXPECT_THAT(refusal([](auto& r) { r.clear_sequences(); }), HasSubstr("sequences"));
  EXPECT_THAT(refusal([](auto& r) { r.mutable_sequences(1)->set_token_ids(2, 10); }),
              HasSubstr("sequences[1].token_ids[2]"));
  EXPECT_THAT(refusal([](auto& r) {
                r.mutable_sequences(2)->add_token_ids(1);
                r.mutable_sequences(2)->add_token_ids(1);
              }),
              HasSubstr("sequences[2].token_ids"));
  EXPECT_THAT(refusal([](auto& r) { r.mutable_sequences(0)->set_score_from(3); }),
              HasSubstr("sequences[0].score_from"));
  for (const float bad : {0.0f, -1.0f, std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity()}) {
    EXPECT_THAT(refusal([bad](auto& r) { r.set_temperature(bad); }), HasSubstr("temperature"));
  }
}

// Scores a token with minus its id times the temperature; counts batches, and fails when told to.
class FakeScorer final : public Scorer {
 public:
  FakeScorer() {
    description_.set_vocab_size(100);
    description_.set_context_length(16);
    description_.set_manifest_hash("weights");
  }
  const v1::ModelDescription& description() const override { return description_; }
  absl::StatusOr<std::vector<ScoredSequence>> Score(const Batch& batch) override {
    std::vector<ScoredSequence> results;
    for (const Batch::Item& item : batch.items) {
      const SequenceToScore& sequence = item.job->sequences[item.sequence];
      ScoredSequence& result = results.emplace_back();
      for (size_t t = sequence.score_from; t < sequence.token_ids.size(); ++t) {
        if (sequence.token_ids[t] == 99) return absl::ResourceExhaustedError("no memory");
        result.logprobs.push_back(-item.job->mode.temperature *
                                  static_cast<float>(sequence.token_ids[t]));
        if (item.job->mode.with_entropy) result.entropies.push_back(1.5f);
      }
    }
    return results;
  }

 private:
  v1::ModelDescription description_;
};

class LogProbServiceTest : public ::testing::Test {
 protected:
  LogProbServiceTest()
      : metrics_(registry_, "reference"),
        queue_({.batch_tokens = 8, .max_waiting_sequences = 4}, Clock::Real()) {
    auto engine = Engine::Start(
        [] { return absl::StatusOr<std::unique_ptr<Scorer>>(std::make_unique<FakeScorer>()); },
        &queue_, &metrics_);
    EXPECT_TRUE(engine.ok());
    engine_ = *std::move(engine);
    service_ = std::make_unique<LogProbService>(engine_.get(), &queue_, &metrics_, Clock::Real());
    server_ = grpc::ServerBuilder().RegisterService(service_.get()).BuildAndStart();
    stub_ = v1::LogProb::NewStub(server_->InProcessChannel({}));
  }
  ~LogProbServiceTest() override { server_->Shutdown(); }

  static v1::LogProbRequest Request(const std::vector<std::vector<uint32_t>>& sequences) {
    v1::LogProbRequest request;
    for (const auto& ids : sequences) {
      request.add_sequences()->mutable_token_ids()->Add(ids.begin(), ids.end());
    }
    return request;
  }

  grpc::Status Score(const v1::LogProbRequest& request) {
    grpc::ClientContext context;
    return stub_->Score(&context, request, &response_);
  }

  metrics::Registry registry_;
  batching::BatchMetrics metrics_;
  BatchQueue queue_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<LogProbService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::LogProb::Stub> stub_;
  v1::LogProbResponse response_;
};

TEST_F(LogProbServiceTest, AnswersInTheOrderOfTheRequestOverSeveralBatches) {
  v1::LogProbRequest request = Request({{1, 2, 3}, {4, 5}, {6, 7, 8, 9, 10, 11}, {2, 3}});
  request.mutable_sequences(2)->set_score_from(4);
  request.set_temperature(2);
  request.set_with_entropy(true);
  ASSERT_TRUE(Score(request).ok());
  ASSERT_EQ(response_.sequences_size(), 4);
  EXPECT_THAT(response_.sequences(0).logprobs(), ElementsAre(-4, -6));
  EXPECT_THAT(response_.sequences(2).logprobs(), ElementsAre(-20, -22));
  EXPECT_THAT(response_.sequences(3).entropies(), ElementsAre(1.5f));
  EXPECT_EQ(response_.manifest_hash(), "weights");
}

TEST_F(LogProbServiceTest, AFailedBatchIsTheRequestsErrorAndTheServiceLivesOn) {
  EXPECT_EQ(Score(Request({{1, 99}, {1, 2}})).error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(Score(Request({{1, 2}})).ok());
}

TEST_F(LogProbServiceTest, RefusesOtherWeightsAndNonsense) {
  v1::LogProbRequest request = Request({{1, 2}});
  request.set_manifest_hash("others");
  EXPECT_EQ(Score(request).error_code(), grpc::FAILED_PRECONDITION);
  EXPECT_EQ(Score(Request({{1, 200}})).error_code(), grpc::INVALID_ARGUMENT);
}

TEST_F(LogProbServiceTest, AFullQueueSaysWhenToComeBack) {
  // A service whose engine never takes anything: the queue stays as it is.
  BatchQueue stuck({.batch_tokens = 8, .max_waiting_sequences = 1}, Clock::Real());
  ASSERT_TRUE(stuck.Admit(Job({2})).ok());
  LogProbService service(engine_.get(), &stuck, &metrics_, Clock::Real());
  const auto server = grpc::ServerBuilder().RegisterService(&service).BuildAndStart();
  const auto stub = v1::LogProb::NewStub(server->InProcessChannel({}));
  grpc::ClientContext context;
  EXPECT_EQ(stub->Score(&context, Request({{1, 2}}), &response_).error_code(),
            grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(context.GetServerTrailingMetadata().count("retry-after-ms"), 1u);
  server->Shutdown();
}

TEST_F(LogProbServiceTest, DrainsWhatWasAdmitted) {
  absl::Notification answered;
  ScoreJobPtr job = Job({2, 2, 2});
  job->done = [&](const ScoreJob::Result& result) {
    if (result.ok()) answered.Notify();
  };
  ASSERT_TRUE(queue_.Admit(job).ok());
  queue_.Close();
  EXPECT_TRUE(engine_->AwaitDrained(absl::InfiniteFuture()));
  EXPECT_TRUE(answered.HasBeenNotified());
  EXPECT_EQ(Score(Request({{1, 2}})).error_code(), grpc::UNAVAILABLE);
}

}  // namespace
}  // namespace rollcall::reference
