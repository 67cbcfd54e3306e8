#include "services/learner/reference/reference_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "services/learner/reference/reference_logprobs.h"
#include "services/learner/rollout/fake_services.h"

namespace rollcall::learner {
namespace {

using ::testing::HasSubstr;

// Answers -token / 8 for every scored token, fails while it is told to, and counts.
class Reference final : public v1::LogProb::Service {
 public:
  grpc::Status Score(grpc::ServerContext* context, const v1::LogProbRequest* request,
                     v1::LogProbResponse* response) override {
    if (other_ != nullptr) other_->called_.WaitForNotificationWithTimeout(absl::Seconds(30));
    absl::MutexLock lock(&mutex_);
    if (++calls_ == 1) called_.Notify();
    if (failures_ > 0) {
      --failures_;
      return failure_;
    }
    if (hangs_) {
      while (!context->IsCancelled()) {
        mutex_.AwaitWithTimeout(absl::Condition(
                                    +[](bool* hangs) { return !*hangs; }, &hangs_),
                                absl::Milliseconds(5));
      }
      return grpc::Status::CANCELLED;
    }
    if (request->manifest_hash() != weights_) {
      return grpc::Status(grpc::FAILED_PRECONDITION, "manifest_hash: other weights");
    }
    for (const v1::TokenSequence& sequence : request->sequences()) {
      ++sequences_;
      v1::SequenceLogProbs* out = response->add_sequences();
      for (int t = static_cast<int>(sequence.score_from()); t < sequence.token_ids_size(); ++t) {
        out->add_logprobs(garbage_ ? 1.0F : -0.125F * static_cast<float>(sequence.token_ids(t)));
      }
    }
    return grpc::Status::OK;
  }

  void Fail(int times, grpc::Status with) {
    absl::MutexLock lock(&mutex_);
    failures_ = times;
    failure_ = std::move(with);
  }
  // Answers nothing before `other` is asked too. Before the first call.
  void AwaitCallOf(Reference& other) { other_ = &other; }
  void Hang() {
    absl::MutexLock lock(&mutex_);
    hangs_ = true;
  }
  void Change(std::string weights) {
    absl::MutexLock lock(&mutex_);
    weights_ = std::move(weights);
  }
  void TurnToGarbage() {
    absl::MutexLock lock(&mutex_);
    garbage_ = true;
  }
  int sequences() {
    absl::MutexLock lock(&mutex_);
    return sequences_;
  }
  int calls() {
    absl::MutexLock lock(&mutex_);
    return calls_;
  }

 private:
  Reference* other_ = nullptr;
  absl::Notification called_;
  absl::Mutex mutex_;
  int calls_ = 0, sequences_ = 0, failures_ = 0;
  bool hangs_ = false, garbage_ = false;
  grpc::Status failure_;
  std::string weights_ = "weights";
};

TrainBatch Batch(size_t sequences, uint32_t first = 1) {
  TrainBatch batch;
  for (size_t i = 0; i < sequences; ++i) {
    TrainSequence& sequence = batch.sequences.emplace_back();
    sequence.token_ids = {1, 2, first + static_cast<uint32_t>(i % 100), 4};
    sequence.loss_mask = {0, 0, 1, 1};
  }
  return batch;
}

std::vector<const TrainSequence*> Pointers(const TrainBatch& batch) {
  std::vector<const TrainSequence*> pointers;
  for (const TrainSequence& sequence : batch.sequences) pointers.push_back(&sequence);
  return pointers;
}

class ReferenceClientTest : public ::testing::Test {
 protected:
  std::unique_ptr<ReferenceClient> Client(int references = 1) {
    std::vector<ReferencePeer> peers = {{"first", first_server_.channel()}};
    if (references == 2) peers.push_back({"second", second_server_.channel()});
    return std::make_unique<ReferenceClient>(
        std::move(peers), "weights",
        ReferenceClientOptions{.timeout = absl::Seconds(30), .max_attempts = 3}, &clock_);
  }

  FastClock clock_{100};
  Reference first_, second_;
  FakeServer first_server_{&first_}, second_server_{&second_};
};

TEST_F(ReferenceClientTest, ScoresEverySequenceInOrder) {
  const TrainBatch batch = Batch(200);
  const auto scored = Client()->Score(Pointers(batch));
  ASSERT_TRUE(scored.ok()) << scored.status();
  ASSERT_EQ(scored->size(), 200u);
  for (size_t i = 0; i < 200; ++i) {
    EXPECT_EQ(
        (*scored)[i],
        (std::vector<float>{-0.125F * static_cast<float>(batch.sequences[i].token_ids[2]), -0.5F}));
  }
  EXPECT_GT(first_.calls(), 1);
  EXPECT_TRUE(Client()->Score({})->empty());
}

TEST_F(ReferenceClientTest, SeveralReferencesShareTheWorkAndStandInForEachOther) {
  const TrainBatch batch = Batch(640);
  first_.AwaitCallOf(second_);
  ASSERT_TRUE(Client(2)->Score(Pointers(batch)).ok());
  EXPECT_EQ(first_.sequences() + second_.sequences(), 640);
  EXPECT_GT(second_.sequences(), 0);
  first_.Fail(1000, grpc::Status(grpc::UNAVAILABLE, "down"));
  const int before = second_.sequences();
  ASSERT_TRUE(Client(2)->Score(Pointers(Batch(64))).ok());
  EXPECT_EQ(second_.sequences(), before + 64);
}

TEST_F(ReferenceClientTest, TriesAgainAndGivesUp) {
  first_.Fail(2, grpc::Status(grpc::UNAVAILABLE, "down"));
  EXPECT_TRUE(Client()->Score(Pointers(Batch(2))).ok());
  first_.Fail(3, grpc::Status(grpc::UNAVAILABLE, "down"));
  const auto failed = Client()->Score(Pointers(Batch(2)));
  EXPECT_TRUE(absl::IsUnavailable(failed.status())) << failed.status();
  EXPECT_THAT(std::string(failed.status().message()), HasSubstr("the reference at first: down"));
  // A full queue is waited for and uses up no attempt.
  first_.Fail(10, grpc::Status(grpc::RESOURCE_EXHAUSTED, "full"));
  EXPECT_TRUE(Client()->Score(Pointers(Batch(2))).ok());
}

TEST_F(ReferenceClientTest, RefusesWhatIsNoAnswer) {
  const int before = first_.calls();
  first_.Change("others");
  const auto changed = Client()->Score(Pointers(Batch(2)));
  EXPECT_TRUE(absl::IsFailedPrecondition(changed.status())) << changed.status();
  EXPECT_EQ(first_.calls(), before + 1);  // asking again would not help
  first_.Change("weights");
  first_.TurnToGarbage();
  const auto garbage = Client()->Score(Pointers(Batch(2)));
  EXPECT_THAT(std::string(garbage.status().message()), HasSubstr("must be finite and <= 0, got 1"));
}

TEST_F(ReferenceClientTest, CancelEndsTheCallInProgress) {
  first_.Hang();
  const auto client = Client();
  std::thread canceller([&] {
    while (first_.calls() == 0) std::this_thread::yield();
    client->Cancel();
  });
  EXPECT_TRUE(absl::IsCancelled(client->Score(Pointers(Batch(2))).status()));
  canceller.join();
  EXPECT_TRUE(absl::IsCancelled(client->Score(Pointers(Batch(2))).status()));
}

TEST_F(ReferenceClientTest, ABatchIsFilledFromTheCacheAndWhatIsMissingIsAskedFor) {
  std::string folder = ::testing::TempDir() + "/reference_logprobs.XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  v1::ModelDescription model;
  model.set_manifest_hash(std::string(32, 'w'));
  const auto open = [&] {
    auto cache = ReferenceCache::Open(folder, model, 0);
    EXPECT_TRUE(cache.ok()) << cache.status();
    return *std::move(cache);
  };
  const auto client = Client();
  TrainBatch batch = Batch(4);
  ASSERT_TRUE(ReferenceLogprobs(client.get(), open()).Fill(batch).ok());
  EXPECT_EQ(batch.metrics.at("reference/scored"), 4);
  EXPECT_EQ(batch.metrics.at("reference/cached"), 0);
  EXPECT_EQ(batch.sequences[2].reference_logprobs, (std::vector<float>{0, 0, -0.375F, -0.5F}));
  TrainBatch later = Batch(4, 3);  // two of them are new
  later.sequences[0].loss_mask = {0, 0, 1, 0};
  ASSERT_TRUE(ReferenceLogprobs(client.get(), open()).Fill(later).ok());
  EXPECT_EQ(later.metrics.at("reference/scored"), 2);
  EXPECT_EQ(later.metrics.at("reference/cached"), 2);
  EXPECT_EQ(later.sequences[0].reference_logprobs, (std::vector<float>{0, 0, -0.375F, 0}));
  EXPECT_EQ(first_.sequences(), 6);
  TrainBatch uncached = Batch(4);
  ASSERT_TRUE(ReferenceLogprobs(client.get(), nullptr).Fill(uncached).ok());
  EXPECT_EQ(uncached.metrics.count("reference/cached"), 0u);
  EXPECT_EQ(uncached.sequences[2].reference_logprobs, batch.sequences[2].reference_logprobs);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace rollcall::learner
