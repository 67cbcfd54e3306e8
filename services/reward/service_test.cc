#include "services/reward/service.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/rpc/channel.h"
#include "common/rpc/server.h"
#include "services/reward/fake_verifier.h"

namespace rollcall::reward {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

constexpr char kRule[] =
    "verifiers { name: 'answer' weight: 1 exact_match { answer_column: 'answer' } } ";

v1::ScoreRequest Request(const std::string& key = "k") {
  v1::ScoreRequest request;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(
      "groups { group_id: 7 samples { index: 0 text: '42' } samples { index: 1 text: '4' } "
      "columns { fields { key: 'answer' value { string_value: '42' } } } } "
      "deadline_seconds: 30",
      &request));
  request.set_idempotency_key(key);
  return request;
}

// The service on a real server at a free port.
class Running {
 public:
  explicit Running(const std::string& config_text, const ServiceOptions& options = {}) {
    v1::RewardSection config;
    EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(config_text, &config));
    auto composition = Composition::Create(
        config,
        [](const std::string& address)
            -> absl::StatusOr<std::shared_ptr<v1::Verifier::StubInterface>> {
          auto channel = rpc::Connect(address);
          if (!channel.ok()) return channel.status();
          return v1::Verifier::NewStub(*channel);
        },
        registry);
    EXPECT_TRUE(composition.ok()) << composition.status();
    composition_ = *std::move(composition);
    service_ = std::make_unique<RewardService>(composition_.get(), registry, options);
    auto server = rpc::Server::Start({.address = "127.0.0.1:0"}, {service_.get()});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    stub = v1::Verifier::NewStub(*rpc::Connect(server_->bound_address()));
  }

  grpc::Status Score(const v1::ScoreRequest& request, v1::ScoreResponse* response,
                     absl::Duration timeout = absl::Seconds(30)) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    return stub->Score(&context, request, response);
  }

  void StopServer() { server_.reset(); }
  RewardService* service() { return service_.get(); }

  metrics::Registry registry;
  std::unique_ptr<v1::Verifier::Stub> stub;

 private:
  std::unique_ptr<Composition> composition_;
  std::unique_ptr<RewardService> service_;
  std::unique_ptr<rpc::Server> server_;
};

std::string RemoteTerm(const std::string& name, const FakeVerifier& fake, double weight) {
  return absl::StrCat("verifiers { name: '", name, "' weight: ", weight,
                      " timeout: 20 retries: 0 remote { address: '", fake.address(), "' } } ");
}

TEST(RewardServiceTest, ComposesRulesAndRemoteVerifiers) {
  FakeVerifier fake;
  Running reward(absl::StrCat(kRule, RemoteTerm("length", fake, 0.1)));
  v1::ScoreResponse response;
  const grpc::Status status = reward.Score(Request(), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.groups_size(), 1);
  EXPECT_EQ(response.groups(0).group_id(), 7u);
  const v1::Score& right = response.groups(0).samples(0).score();
  EXPECT_DOUBLE_EQ(right.value(), 1.2);
  EXPECT_EQ(right.components().at("answer/correct"), 1);
  EXPECT_EQ(right.components().at("length"), 2);
  EXPECT_DOUBLE_EQ(response.groups(0).samples(1).score().value(), 0.1);
  const std::string metrics = reward.registry.Text();
  EXPECT_THAT(metrics, HasSubstr("rollcall_reward_samples_total{outcome=\"score\"} 2"));
  EXPECT_THAT(metrics, HasSubstr("rollcall_reward_pending_requests 0"));
  EXPECT_THAT(metrics, HasSubstr("rollcall_reward_verifier_seconds_count{verifier=\"length\"} 1"));
}

TEST(RewardServiceTest, AFailingVerifierIsAnOutcomeAndNeverAZero) {
  FakeVerifier broken(FakeVerifier::Fail(grpc::StatusCode::INTERNAL, "boom"));
  Running reward(absl::StrCat(kRule, RemoteTerm("judge", broken, 1)));
  v1::ScoreResponse response;
  ASSERT_TRUE(reward.Score(Request(), &response).ok());
  for (const v1::SampleResult& sample : response.groups(0).samples()) {
    ASSERT_TRUE(sample.has_error());
    EXPECT_THAT(sample.error().reason(), HasSubstr("judge: call failed with status 13: boom"));
  }
  EXPECT_THAT(reward.registry.Text(),
              HasSubstr("rollcall_reward_samples_total{outcome=\"error\"} 2"));
}

TEST(RewardServiceTest, RefusesBadRequestsByFieldAndLivesOn) {
  Running reward(kRule);
  v1::ScoreResponse response;
  v1::ScoreRequest request = Request();
  request.mutable_groups(0)->clear_samples();
  const grpc::Status status = reward.Score(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("groups[0].samples: must not be empty"));
  EXPECT_TRUE(reward.Score(Request(), &response).ok());
}

TEST(RewardServiceTest, AnswersARepeatedKeyFromMemoryOnlyForTheSameSamples) {
  FakeVerifier fake;
  Running reward(RemoteTerm("length", fake, 1));
  v1::ScoreResponse first, second, other;
  ASSERT_TRUE(reward.Score(Request(), &first).ok());
  ASSERT_TRUE(reward.Score(Request(), &second).ok());
  EXPECT_EQ(fake.requests().size(), 1u);
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(first, second));
  v1::ScoreRequest changed = Request();
  changed.mutable_groups(0)->mutable_samples(0)->set_text("12345");
  ASSERT_TRUE(reward.Score(changed, &other).ok());
  EXPECT_EQ(other.groups(0).samples(0).score().value(), 5);
  EXPECT_EQ(fake.requests().size(), 2u);
}

TEST(RewardServiceTest, FaultsAreNotRemembered) {
  FakeVerifier flaky([](int call, const auto& request, auto* response) {
    if (call == 1) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "starting");
    return FakeVerifier::ScoreLengths(call, request, response);
  });
  Running reward(RemoteTerm("length", flaky, 1));
  v1::ScoreResponse first, second;
  ASSERT_TRUE(reward.Score(Request(), &first).ok());
  EXPECT_TRUE(first.groups(0).samples(0).has_retry());
  ASSERT_TRUE(reward.Score(Request(), &second).ok());
  EXPECT_EQ(second.groups(0).samples(0).score().value(), 2);
}

TEST(RewardServiceTest, ACancelReachesTheRemoteVerifier) {
  FakeVerifier held(FakeVerifier::Hold);
  Running reward(RemoteTerm("judge", held, 1));
  grpc::ClientContext context;
  v1::ScoreResponse response;
  grpc::Status status;
  const v1::ScoreRequest request = Request();
  std::thread call([&] { status = reward.stub->Score(&context, request, &response); });
  ASSERT_TRUE(held.AwaitHeld(1));
  context.TryCancel();
  EXPECT_TRUE(held.AwaitCancelled(1));
  call.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
}

TEST(RewardServiceTest, ASlowVerifierIsARetryBeforeTheCallersDeadline) {
  FakeVerifier held(FakeVerifier::Hold);
  Running reward(absl::StrCat(kRule, RemoteTerm("judge", held, 1)));
  v1::ScoreRequest request = Request();
  request.set_deadline_seconds(1);
  v1::ScoreResponse response;
  const grpc::Status status = reward.Score(request, &response, absl::Seconds(30));
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(response.groups(0).samples(0).has_retry()) << response.DebugString();
}

TEST(RewardServiceTest, RefusesWhatItCannotHold) {
  FakeVerifier held(FakeVerifier::Hold);
  Running reward(RemoteTerm("judge", held, 1), {.max_pending_requests = 1});
  grpc::ClientContext context;
  v1::ScoreResponse response;
  const v1::ScoreRequest request = Request();
  std::thread call([&] { (void)reward.stub->Score(&context, request, &response); });
  ASSERT_TRUE(held.AwaitHeld(1));
  v1::ScoreResponse refused;
  EXPECT_EQ(reward.Score(Request("l"), &refused).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  context.TryCancel();
  call.join();
  Running small(kRule, {.max_pending_bytes = 10});
  EXPECT_EQ(small.Score(Request(), &refused).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST(RewardServiceTest, StoppingTheServerEndsCallsUnderWay) {
  FakeVerifier held(FakeVerifier::Hold);
  Running reward(RemoteTerm("judge", held, 1));
  grpc::Status status;
  v1::ScoreResponse response;
  std::thread call([&] { status = reward.Score(Request(), &response, absl::Seconds(60)); });
  ASSERT_TRUE(held.AwaitHeld(1));
  reward.StopServer();
  call.join();
  EXPECT_FALSE(status.ok());
}

TEST(RewardServiceTest, AClosedIntakeRefusesAndWaitsForWhatRuns) {
  FakeVerifier held(FakeVerifier::Hold);
  Running reward(RemoteTerm("judge", held, 1));
  grpc::ClientContext context;
  v1::ScoreResponse response;
  const v1::ScoreRequest request = Request();
  std::thread call([&] { (void)reward.stub->Score(&context, request, &response); });
  ASSERT_TRUE(held.AwaitHeld(1));
  reward.service()->CloseIntake();
  v1::ScoreResponse refused;
  EXPECT_EQ(reward.Score(Request("l"), &refused).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(absl::IsDeadlineExceeded(reward.service()->AwaitIdle(absl::Now())));
  context.TryCancel();
  call.join();
  EXPECT_EQ(reward.service()->AwaitIdle(absl::Now() + absl::Seconds(30)), absl::OkStatus());
}

TEST(RewardServiceTest, DescribesTheComposition) {
  FakeVerifier fake;
  const std::string config = absl::StrCat(
      kRule, RemoteTerm("judge", fake, -2),
      "verifiers { name: 'form' gate: 1 reward_if_gated: -10 length { max_tokens: 5 } }");
  Running reward(config);
  v1::VerifierDescription description;
  grpc::ClientContext context;
  ASSERT_TRUE(reward.stub->Describe(&context, {}, &description).ok());
  EXPECT_EQ(description.name(), "reward");
  EXPECT_EQ(description.min_score(), -10);
  EXPECT_EQ(description.max_score(), 3);
  EXPECT_THAT(description.columns(), Contains("answer"));
  EXPECT_THAT(description.columns(), Contains("tests"));
  EXPECT_THAT(description.components(), Contains("judge/passed"));
  const std::string before = description.version();
  fake.version = "2";
  grpc::ClientContext again;
  ASSERT_TRUE(reward.stub->Describe(&again, {}, &description).ok());
  EXPECT_NE(description.version(), before);
  fake.Stop();
  grpc::ClientContext down;
  const grpc::Status status = reward.stub->Describe(&down, {}, &description);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("verifier judge at"));
}

TEST(CompositionTest, NamesTheVerifierThatCannotBeMade) {
  const struct {
    const char* config;
    const char* error;
  } kCases[] = {
      {"", "reward.verifiers: needs at least one"},
      {"verifiers { name: 'a' regex { pattern: '(' } }", "reward.verifiers[0].regex.pattern: RE2"},
      {"verifiers { name: 'a' length {} } verifiers { name: 'b' remote { address: 'x' } }",
       "reward.verifiers[1].remote.address: refused x"},
  };
  for (const auto& c : kCases) {
    v1::RewardSection config;
    ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(c.config, &config));
    metrics::Registry registry;
    const auto composition = Composition::Create(
        config,
        [](const std::string& address)
            -> absl::StatusOr<std::shared_ptr<v1::Verifier::StubInterface>> {
          return absl::InvalidArgumentError("refused " + address);
        },
        registry);
    EXPECT_EQ(composition.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(composition.status().message()), HasSubstr(c.error));
  }
}

}  // namespace
}  // namespace rollcall::reward
