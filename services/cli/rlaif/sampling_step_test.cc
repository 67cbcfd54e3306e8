#include "services/cli/rlaif/sampling_step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "services/cli/rlaif/fake_generator.h"

namespace rollcall::cli {
namespace {

using testing::FakeGenerator;
using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

// Each item has two parts, the second made from the first.
class TwoParts final : public SamplingStep {
 public:
  explicit TwoParts(uint64_t items) : items_(items) {}

  StepInputs Inputs() const override { return {{"items", absl::StrCat(items_)}}; }
  std::vector<uint64_t> Items() const override {
    std::vector<uint64_t> items(items_);
    for (uint64_t i = 0; i < items_; ++i) items[i] = i;
    return items;
  }
  uint32_t CallSize() const override { return 1; }
  bool Complete(const Parts& parts) const override { return parts.size() == 2; }
  absl::Status Work(uint64_t item, Parts done, const ServedModel& model,
                    const Emit& emit) const override {
    for (uint32_t part = static_cast<uint32_t>(done.size()); part < 2; ++part) {
      const std::string asked =
          part == 0 ? absl::StrCat("item ", item) : done[0].get<std::string>();
      const auto ids = model.tokenizer.Encode(asked, false);
      const auto answers =
          model.client.Sample(SampleRequestOf(Sampling(), *ids, 1, /*seed=*/1, item * 2 + part));
      if (!answers.ok()) return answers.status();
      done.emplace_back(answers->front().text);
      if (!emit(done.back())) return absl::CancelledError("stopped");
    }
    return absl::OkStatus();
  }
  absl::StatusOr<StepOutput> Conclude(const std::map<uint64_t, Parts>& items) const override {
    StepOutput output;
    for (const auto& [item, parts] : items) output.files["out"] += JsonLine({item, parts});
    return output;
  }

 private:
  static v1::SamplingSection Sampling() {
    v1::SamplingSection sampling;
    sampling.set_temperature(1);
    sampling.set_max_tokens(64);
    return sampling;
  }
  const uint64_t items_;
};

class RunItemsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = absl::StrCat(::testing::TempDir(), "/run_items_", getpid(), "_",
                         ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove(path_);
  }
  void TearDown() override { std::filesystem::remove(path_); }

  // Until `most` items are complete, then as if interrupted.
  absl::Status Run(FakeGenerator& generator, const TwoParts& step, uint64_t most = 1'000'000) {
    auto log = ItemLog::Open(path_, step.Inputs());
    if (!log.ok()) return log.status();
    ActiveCalls calls;
    const GeneratorClient client(
        {generator.channel()}, generator.tokenizer(), calls,
        {.attempts = 3, .call_time = absl::Seconds(20), .recovery_time = absl::Seconds(5)});
    const absl::Status ended = RunItems(
        step, {.client = client, .tokenizer = *generator.tokenizer(), .context_length = 100}, **log,
        calls, [&](uint64_t complete) {
          return complete >= most ? absl::CancelledError("interrupted") : absl::OkStatus();
        });
    if (!ended.ok()) return ended;
    auto output = step.Conclude(PartsOf(**log));
    output_ = output->files["out"];
    return ended;
  }

  std::string path_;
  std::string output_;
};

std::string Louder(const std::string& prompt, uint32_t) { return prompt + "!"; }

TEST_F(RunItemsTest, MakesEveryPartOfEveryItemOnce) {
  FakeGenerator generator(Louder);
  const TwoParts step(40);
  ASSERT_TRUE(Run(generator, step).ok());
  EXPECT_EQ(generator.calls(), 80);
  EXPECT_THAT(output_, HasSubstr("[17,[\"item 17!\",\"item 17!!\"]]\n"));
  const std::vector<std::string> prompts = generator.prompts();
  EXPECT_EQ(std::set<std::string>(prompts.begin(), prompts.end()).size(), 80u);
}

TEST_F(RunItemsTest, GoesOnAfterAnInterruptionWithoutAskingAgain) {
  FakeGenerator generator(Louder);
  const TwoParts step(200);
  EXPECT_EQ(Run(generator, step, /*most=*/20).code(), absl::StatusCode::kCancelled);
  const auto half = ItemLog::Open(path_, step.Inputs());
  ASSERT_TRUE(half.ok());
  const size_t recorded = (*half)->items().size();
  EXPECT_GE(recorded, 40u);
  EXPECT_LT(recorded, 400u);
  FakeGenerator second(Louder);
  ASSERT_TRUE(Run(second, step).ok());
  EXPECT_EQ(second.calls(), 400 - static_cast<int>(recorded));
  const std::string resumed = output_;
  std::filesystem::remove(path_);
  ASSERT_TRUE(Run(second, step).ok());
  EXPECT_EQ(resumed, output_);
}

TEST_F(RunItemsTest, AGeneratorThatGoesAwayIsAskedAgain) {
  FakeGenerator generator(Louder);
  generator.FailNext(2, grpc::StatusCode::UNAVAILABLE);
  const TwoParts step(1);
  ASSERT_TRUE(Run(generator, step).ok());
  EXPECT_EQ(generator.calls(), 4);
  EXPECT_THAT(output_, HasSubstr("item 0!!"));
}

TEST_F(RunItemsTest, WhatFailsForGoodEndsTheStepWithItsReason) {
  FakeGenerator generator(Louder);
  generator.FailNext(1000, grpc::StatusCode::UNAVAILABLE);
  const absl::Status ended = Run(generator, TwoParts(1));
  EXPECT_EQ(ended.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(ended.message(), HasSubstr("item 0: after 3 tries: the generator went away"));
  EXPECT_EQ(generator.calls(), 3);

  FakeGenerator refusing(Louder);
  refusing.FailNext(1000, grpc::StatusCode::INVALID_ARGUMENT);
  std::filesystem::remove(path_);
  EXPECT_EQ(Run(refusing, TwoParts(1)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(refusing.calls(), 1);
}

TEST(GeneratorClient, StopEndsCallsAndLetsNoneBegin) {
  FakeGenerator generator(Louder);
  ActiveCalls calls;
  const GeneratorClient client({generator.channel()}, generator.tokenizer(), calls, {});
  calls.Stop();
  v1::GenerateRequest request;
  request.set_num_samples(1);
  EXPECT_EQ(client.Sample(request).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(generator.calls(), 0);
}

TEST(GeneratorClient, ComparesLabelsWhicheverWayTheirLogProbsCome) {
  const auto thinks = [](const std::string& prompt) -> std::map<char, float> {
    if (prompt.ends_with("?A")) return {{'1', -0.25F}, {'2', -3.0F}};
    return {{'A', -0.5F}, {'B', -2.0F}, {'c', -1.0F}};
  };
  FakeGenerator generator(Louder, thinks);
  ActiveCalls calls;
  const GeneratorClient client({generator.channel()}, generator.tokenizer(), calls, {});
  const std::vector<uint32_t> prompt = {'p', '?'};
  const auto compare = [&](std::vector<uint32_t> first, std::vector<uint32_t> second) {
    const auto odds = client.Compare(prompt, first, second);
    EXPECT_TRUE(odds.ok()) << odds.status();
    return odds.value_or(std::pair(0.0, 0.0));
  };
  EXPECT_EQ(compare({'A'}, {'B'}), std::pair(-0.5, -2.0));
  EXPECT_EQ(generator.calls(), 1);
  // The second label is not among the likeliest.
  generator.ShowAtMost(2);
  EXPECT_EQ(compare({'A'}, {'B'}), std::pair(-0.5, -2.0));
  EXPECT_EQ(generator.calls(), 4);
  // Labels of several tokens.
  EXPECT_EQ(compare({'A', '1'}, {'A', '2'}), std::pair(-0.75, -3.5));
}

}  // namespace
}  // namespace rollcall::cli
