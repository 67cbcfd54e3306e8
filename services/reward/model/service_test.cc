#include "services/reward/model/service.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "common/metrics/registry.h"
#include "common/text/text_test_data.h"

namespace rollcall::reward {
namespace {

using ::testing::HasSubstr;

// Scores a sequence with its number of tokens; NaN at 5 tokens, no memory at 6. Says when the first batch
// is there, and waits in each until it may go on.
class LengthScorer final : public ModelScorer {
 public:
  LengthScorer(absl::Notification* entered, absl::Notification* gate)
      : entered_(entered), gate_(gate) {
    description_.set_vocab_size(100);
    description_.set_context_length(16);
  }
  const v1::ModelDescription& description() const override { return description_; }
  absl::StatusOr<std::vector<float>> Score(const ModelBatch& batch) override {
    if (!entered_->HasBeenNotified()) entered_->Notify();
    gate_->WaitForNotification();
    std::vector<float> scores;
    for (const ModelBatch::Item& item : batch.items) {
      const size_t length = item.job->sequences[item.sequence].token_ids.size();
      if (length == 6) return absl::ResourceExhaustedError("no memory");
      scores.push_back(length == 5 ? std::numeric_limits<float>::quiet_NaN()
                                   : static_cast<float>(length));
    }
    return scores;
  }

 private:
  absl::Notification* const entered_;
  absl::Notification* const gate_;
  v1::ModelDescription description_;
};

class RewardModelServiceTest : public ::testing::Test {
 protected:
  RewardModelServiceTest()
      : metrics_(registry_, "reward_model"),
        outcomes_(registry_, "rollcall_reward_model_samples_total", "Samples.", {}),
        queue_({.batch_tokens = 8, .max_waiting_sequences = 4}, Clock::Real()) {
    engine_ = ModelEngine::Start(
                  [this] {
                    return absl::StatusOr<std::unique_ptr<ModelScorer>>(
                        std::make_unique<LengthScorer>(&entered_, &gate_));
                  },
                  &queue_, &metrics_)
                  .value();
    service_ = std::make_unique<RewardModelService>(
        ModelServiceOptions{.name = "quality", .version = "v1", .max_waiting_sequences = 4},
        SequenceEncoder(text::Tokenizer::FromJson(text::kTinyTokenizer).value(),
                        {.policy_tokens = true, .vocab_size = 100, .context_length = 8}),
        &queue_, &metrics_, &outcomes_, Clock::Real());
    server_ = grpc::ServerBuilder().RegisterService(service_.get()).BuildAndStart();
    stub_ = v1::Verifier::NewStub(server_->InProcessChannel({}));
  }
  ~RewardModelServiceTest() override {
    Open();
    server_->Shutdown();
  }

  void Open() {
    if (!gate_.HasBeenNotified()) gate_.Notify();
  }

  // A group for each list, of samples that have these numbers of tokens.
  static v1::ScoreRequest Request(const std::vector<std::vector<int>>& groups) {
    v1::ScoreRequest request;
    request.set_idempotency_key("k");
    request.set_deadline_seconds(60);
    for (size_t g = 0; g < groups.size(); ++g) {
      v1::VerifierGroup* group = request.add_groups();
      group->set_group_id(g + 10);
      for (size_t s = 0; s < groups[g].size(); ++s) {
        v1::VerifierSample* sample = group->add_samples();
        sample->set_index(static_cast<uint32_t>(s));
        for (int t = 0; t < groups[g][s]; ++t) sample->add_token_ids(2);
      }
    }
    return request;
  }

  grpc::Status Score(const v1::ScoreRequest& request) {
    grpc::ClientContext context;
    return stub_->Score(&context, request, &response_);
  }
  const v1::SampleResult& Result(int group, int sample) const {
    return response_.groups(group).samples(sample);
  }

  metrics::Registry registry_;
  batching::BatchMetrics metrics_;
  OutcomeMetrics outcomes_;
  ModelQueue queue_;
  absl::Notification entered_;
  absl::Notification gate_;
  std::unique_ptr<ModelEngine> engine_;
  std::unique_ptr<RewardModelService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::Verifier::Stub> stub_;
  v1::ScoreResponse response_;
};

TEST_F(RewardModelServiceTest, ScoresEverySampleInItsPlaceOverSeveralBatches) {
  Open();
  ASSERT_TRUE(Score(Request({{3, 1}, {7, 2}})).ok());
  ASSERT_EQ(response_.groups_size(), 2);
  EXPECT_EQ(response_.groups(1).group_id(), 11u);
  EXPECT_EQ(Result(0, 0).score().value(), 3);
  EXPECT_EQ(Result(0, 1).score().value(), 1);
  EXPECT_EQ(Result(1, 0).score().value(), 7);
  EXPECT_EQ(Result(1, 1).score().value(), 2);
  EXPECT_EQ(Result(1, 1).index(), 1u);
}

TEST_F(RewardModelServiceTest, WhatCannotBeScoredIsAnErrorAndNeverAScore) {
  Open();
  ASSERT_TRUE(Score(Request({{9, 5, 0, 2}})).ok());
  EXPECT_THAT(Result(0, 0).error().reason(), HasSubstr("9 tokens"));
  EXPECT_THAT(Result(0, 1).error().reason(), HasSubstr("not finite"));
  EXPECT_THAT(Result(0, 2).error().reason(), HasSubstr("0 tokens"));
  EXPECT_EQ(Result(0, 3).score().value(), 2);
  ASSERT_TRUE(Score(Request({{9}})).ok());  // nothing for the model to do
  EXPECT_TRUE(Result(0, 0).has_error());
  EXPECT_EQ(queue_.waiting_sequences(), 0u);
  EXPECT_THAT(registry_.Text(),
              HasSubstr("rollcall_reward_model_samples_total{outcome=\"error\"} 4"));
}

TEST_F(RewardModelServiceTest, AFailedForwardPassIsTheCallsErrorAndTheServiceLivesOn) {
  Open();
  EXPECT_EQ(Score(Request({{6, 1}})).error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(Score(Request({{1}})).ok());
  EXPECT_EQ(Score(v1::ScoreRequest()).error_code(), grpc::INVALID_ARGUMENT);
}

TEST_F(RewardModelServiceTest, AFullQueueSaysWhenToComeBackAndADrainFinishesWhatItHas) {
  // The engine is held in the first call's first batch, the rest of it waits.
  grpc::ClientContext first_context;
  const v1::ScoreRequest first = Request({{8, 8, 8, 8}});
  absl::Notification answered;
  grpc::Status answer;
  stub_->async()->Score(&first_context, &first, &response_, [&](const grpc::Status& status) {
    answer = status;
    answered.Notify();
  });
  const auto refused = [&] {
    grpc::ClientContext context;
    v1::ScoreResponse response;
    const grpc::Status status = stub_->Score(&context, Request({{1, 1, 1, 1}}), &response);
    return status.error_code() == grpc::RESOURCE_EXHAUSTED &&
           context.GetServerTrailingMetadata().contains("retry-after-ms");
  };
  entered_.WaitForNotification();
  EXPECT_TRUE(refused());
  queue_.Close();
  Open();
  EXPECT_TRUE(engine_->AwaitDrained(absl::InfiniteFuture()));
  answered.WaitForNotification();
  EXPECT_TRUE(answer.ok()) << answer.error_message();
  EXPECT_EQ(Result(0, 3).score().value(), 8);
  EXPECT_EQ(Score(Request({{1}})).error_code(), grpc::UNAVAILABLE);
}

TEST_F(RewardModelServiceTest, DescribesItself) {
  Open();
  grpc::ClientContext context;
  v1::VerifierDescription description;
  ASSERT_TRUE(stub_->Describe(&context, {}, &description).ok());
  EXPECT_EQ(description.name(), "quality");
  EXPECT_EQ(description.version(), "v1");
  EXPECT_FALSE(description.has_max_score());
}

}  // namespace
}  // namespace rollcall::reward
