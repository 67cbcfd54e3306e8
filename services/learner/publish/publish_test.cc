#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <filesystem>
#include <map>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/wire/sha256.h"
#include "services/learner/publish/lineage.h"
#include "services/learner/publish/weight_publisher.h"

namespace rollcall::learner {
namespace {

using ::testing::HasSubstr;

WeightSnapshotPtr MakeSnapshot(uint64_t step) {
  auto snapshot = std::make_shared<WeightSnapshot>();
  snapshot->step = step;
  // The first is larger than a chunk.
  for (const size_t count : {700'000, 3}) {
    WeightSnapshot::Tensor& tensor = snapshot->tensors.emplace_back();
    tensor.name = absl::StrCat("tensor.", snapshot->tensors.size());
    tensor.dtype = wire::DType::kFloat32;
    tensor.shape = {count};
    tensor.bytes.resize(4 * count);
    for (size_t i = 0; i < count; ++i) {
      const float value = static_cast<float>(i + step);
      std::memcpy(tensor.bytes.data() + 4 * i, &value, 4);
    }
  }
  return snapshot;
}

PreparedVersionPtr Prepare(uint64_t step, uint64_t lineage = 1) {
  return PrepareVersion(
      {.run_id = "run", .lineage = lineage, .architecture_hash = "a", .tokenizer_hash = "t"},
      MakeSnapshot(step));
}

// A server of weights that keeps what it is sent, checks it as the contract says, and fails on
// demand.
class FakeWeights final : public v1::Weights::Service {
 public:
  // The statuses that the next calls of Begin and Commit end with instead of doing their work.
  void FailBegin(grpc::Status status) {
    Locked([&] { begin_faults_.push_back(status); });
  }
  void FailCommit(grpc::Status status) {
    Locked([&] { commit_faults_.push_back(status); });
  }
  // As a process that was killed and started again: nothing is held.
  void Restart() {
    Locked([&] {
      state_.Clear();
      tensors_.clear();
    });
  }
  void SetNumerics(const std::string& arithmetic) {
    Locked([&] { state_.mutable_numerics()->set_arithmetic(arithmetic); });
  }
  int commits() const {
    absl::MutexLock lock(&mutex_);
    return commits_;
  }

  grpc::Status Begin(grpc::ServerContext*, const v1::BeginTransferRequest* request,
                     v1::BeginTransferResponse* response) override {
    absl::MutexLock lock(&mutex_);
    if (!begin_faults_.empty()) return Take(begin_faults_);
    begun_ = *request;
    tensors_.clear();
    response->set_transfer_id(++transfer_);
    return grpc::Status::OK;
  }
  grpc::Status Push(grpc::ServerContext*, grpc::ServerReader<v1::WeightChunk>* reader,
                    v1::PushResponse*) override {
    v1::WeightChunk chunk;
    while (reader->Read(&chunk)) {
      absl::MutexLock lock(&mutex_);
      if (chunk.data().size() > (4 << 20)) return {grpc::INVALID_ARGUMENT, "chunk too large"};
      std::string& bytes = tensors_[chunk.tensor_index()];
      bytes.resize(std::max(bytes.size(), chunk.offset() + chunk.data().size()));
      bytes.replace(chunk.offset(), chunk.data().size(), chunk.data());
    }
    return grpc::Status::OK;
  }
  grpc::Status Commit(grpc::ServerContext*, const v1::CommitRequest* request,
                      v1::CommitResponse* response) override {
    absl::MutexLock lock(&mutex_);
    if (!commit_faults_.empty()) return Take(commit_faults_);
    for (int i = 0; i < begun_.manifest().tensors_size(); ++i) {
      if (wire::ToBytes(wire::Sha256Of(tensors_[static_cast<uint32_t>(i)])) !=
          begun_.manifest().tensors(i).sha256()) {
        return {grpc::DATA_LOSS, begun_.manifest().tensors(i).name()};
      }
    }
    *state_.mutable_version() = request->version();
    state_.set_ready(true);
    ++commits_;
    *response->mutable_state() = state_;
    return grpc::Status::OK;
  }
  grpc::Status GetState(grpc::ServerContext*, const v1::GetStateRequest*,
                        v1::ServerState* response) override {
    absl::MutexLock lock(&mutex_);
    *response = state_;
    return grpc::Status::OK;
  }

 private:
  template <typename Fn>
  void Locked(Fn fn) {
    absl::MutexLock lock(&mutex_);
    fn();
  }
  static grpc::Status Take(std::deque<grpc::Status>& faults) {
    const grpc::Status status = faults.front();
    faults.pop_front();
    return status;
  }

  mutable absl::Mutex mutex_;
  v1::BeginTransferRequest begun_;
  std::map<uint32_t, std::string> tensors_;
  v1::ServerState state_;
  std::deque<grpc::Status> begin_faults_, commit_faults_;
  uint64_t transfer_ = 0;
  int commits_ = 0;
};

class Observer final : public GeneratorObserver {
 public:
  void OnServing(size_t generator, uint64_t step) override {
    absl::MutexLock lock(&mutex_);
    serving_[generator] = step;
  }
  void OnUnusable(size_t generator, const std::string& why) override {
    absl::MutexLock lock(&mutex_);
    serving_.erase(generator);
    why_ = why;
  }
  void OnFatal(const absl::Status& status) override {
    absl::MutexLock lock(&mutex_);
    fatal_.Update(status);
  }

  bool AwaitServing(size_t generator, uint64_t step) {
    return Await([&] { return serving_.count(generator) > 0 && serving_[generator] == step; });
  }
  bool AwaitUnusable(size_t generator) {
    return Await([&] { return serving_.count(generator) == 0; });
  }
  absl::Status AwaitFatal() {
    Await([&] { return !fatal_.ok(); });
    absl::MutexLock lock(&mutex_);
    return fatal_;
  }

 private:
  template <typename Fn>
  bool Await(Fn fn) {
    absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(&fn), absl::Seconds(20));
  }

  absl::Mutex mutex_;
  std::map<size_t, uint64_t> serving_;
  std::string why_;
  absl::Status fatal_;
};

class WeightPublisherTest : public ::testing::Test {
 protected:
  WeightPublisherTest() {
    for (size_t i = 0; i < 2; ++i) {
      servers_[i] = grpc::ServerBuilder().RegisterService(&weights_[i]).BuildAndStart();
    }
  }
  ~WeightPublisherTest() override {
    publisher_.reset();
    for (const auto& server : servers_) server->Shutdown();
  }

  void Start(PublisherOptions options = {}) {
    options.poll_interval = absl::Milliseconds(20);
    options.retry_interval = absl::Milliseconds(5);
    publisher_ = std::make_unique<WeightPublisher>(
        options, std::vector<std::string>{"gen-a", "gen-b"},
        std::vector<std::shared_ptr<grpc::Channel>>{servers_[0]->InProcessChannel({}),
                                                    servers_[1]->InProcessChannel({})},
        &observer_);
  }

  std::array<FakeWeights, 2> weights_;
  std::array<std::unique_ptr<grpc::Server>, 2> servers_;
  Observer observer_;
  std::unique_ptr<WeightPublisher> publisher_;
};

TEST_F(WeightPublisherTest, EveryGeneratorGetsEveryVersion) {
  Start();
  publisher_->Publish(Prepare(0));
  EXPECT_TRUE(observer_.AwaitServing(0, 0));
  EXPECT_TRUE(observer_.AwaitServing(1, 0));
  publisher_->Publish(Prepare(1));
  EXPECT_TRUE(observer_.AwaitServing(0, 1));
  EXPECT_TRUE(observer_.AwaitServing(1, 1));
  EXPECT_EQ(weights_[0].commits(), 2);
}

TEST_F(WeightPublisherTest, AGeneratorThatRestartsIsGivenTheWeightsAgain) {
  Start();
  publisher_->Publish(Prepare(3));
  ASSERT_TRUE(observer_.AwaitServing(0, 3));
  weights_[0].Restart();
  EXPECT_TRUE(observer_.AwaitUnusable(0));
  EXPECT_TRUE(observer_.AwaitServing(0, 3));
  EXPECT_EQ(weights_[0].commits(), 2);
}

TEST_F(WeightPublisherTest, DamagedAndLostTransfersAreRepeated) {
  weights_[0].FailCommit({grpc::DATA_LOSS, "tensor.1"});
  weights_[0].FailCommit({grpc::NOT_FOUND, "no such transfer"});
  weights_[1].FailBegin({grpc::UNAVAILABLE, "starting"});
  weights_[1].FailBegin({grpc::RESOURCE_EXHAUSTED, "no memory"});
  Start();
  publisher_->Publish(Prepare(1));
  EXPECT_TRUE(observer_.AwaitServing(0, 1));
  EXPECT_TRUE(observer_.AwaitServing(1, 1));
}

TEST_F(WeightPublisherTest, AFencedLearnerIsTold) {
  weights_[1].FailBegin({grpc::FAILED_PRECONDITION, "lineage 2 was seen"});
  Start();
  publisher_->Publish(Prepare(1));
  const absl::Status fatal = observer_.AwaitFatal();
  EXPECT_EQ(fatal.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(fatal.message()), HasSubstr("gen-b"));
  EXPECT_THAT(std::string(fatal.message()), HasSubstr("lineage 2 was seen"));
}

TEST_F(WeightPublisherTest, OtherNumericsAreRefusedInExactMode) {
  weights_[0].SetNumerics("cpu-fma");
  weights_[1].SetNumerics("cuda-sm90");
  PublisherOptions options;
  options.required_numerics.emplace().set_arithmetic("cpu-fma");
  Start(options);
  publisher_->Publish(Prepare(1));
  const absl::Status fatal = observer_.AwaitFatal();
  EXPECT_THAT(std::string(fatal.message()), HasSubstr("cuda-sm90"));
  EXPECT_THAT(std::string(fatal.message()), HasSubstr("gen-b"));
  EXPECT_TRUE(observer_.AwaitServing(0, 1));
}

TEST(WeightPublisherLateTest, AGeneratorThatComesUpLaterIsServed) {
  const std::string address = "unix:" + ::testing::TempDir() + "/late_weights.sock";
  Observer observer;
  PublisherOptions options;
  options.retry_interval = absl::Milliseconds(5);
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 20);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 20);
  WeightPublisher publisher(
      options, {address},
      {grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments)},
      &observer);
  publisher.Publish(Prepare(2));
  EXPECT_TRUE(observer.AwaitUnusable(0));
  FakeWeights weights;
  const auto server = grpc::ServerBuilder()
                          .AddListeningPort(address, grpc::InsecureServerCredentials())
                          .RegisterService(&weights)
                          .BuildAndStart();
  EXPECT_TRUE(observer.AwaitServing(0, 2));
  publisher.Stop();
  server->Shutdown();
}

TEST(PreparedVersionTest, EqualBytesAreEqualWeightsInAnyLineage) {
  EXPECT_EQ(Prepare(1)->version.manifest_hash(), Prepare(1, 2)->version.manifest_hash());
  EXPECT_NE(Prepare(1)->version.manifest_hash(), Prepare(2)->version.manifest_hash());
  EXPECT_EQ(Prepare(1)->TotalBytes(), 4u * 700'003);
}

class LineageTest : public ::testing::Test {
 protected:
  LineageTest() : folder_(::testing::TempDir() + "/lineage_test") {
    std::filesystem::remove_all(folder_);
  }
  ~LineageTest() override { std::filesystem::remove_all(folder_); }
  const std::string folder_;
};

TEST_F(LineageTest, EveryStartIsHigherThanTheLast) {
  EXPECT_TRUE(absl::IsNotFound(ReadLineage(folder_).status()));
  const auto first = OpenLineage(folder_, "my run");
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->lineage(), 1u);
  EXPECT_THAT(first->run_id(), ::testing::MatchesRegex("my-run-[0-9a-f]+"));
  const auto second = OpenLineage(folder_, "renamed");
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->lineage(), 2u);
  EXPECT_EQ(second->run_id(), first->run_id());
  EXPECT_EQ(ReadLineage(folder_)->lineage(), 2u);
}

TEST_F(LineageTest, ADamagedRecordIsNotReplaced) {
  ASSERT_TRUE(OpenLineage(folder_, "run").ok());
  ASSERT_TRUE(WriteFileAtomically(folder_ + "/lineage", "{}").ok());
  EXPECT_EQ(OpenLineage(folder_, "run").status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace rollcall::learner
