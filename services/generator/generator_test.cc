// The generator through real gRPC, with a tiny random model.
#include <ATen/core/TensorBody.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/philox.h"
#include "common/checkpoint/scratch_folder.h"
#include "common/rpc/status_conversion.h"
#include "services/generator/testing/generator_server.h"
#include "services/generator/testing/requests.h"
#include "services/generator/testing/tiny_model.h"

namespace rollcall::generator {
namespace {

using testing::GeneratorServer;
using ::testing::HasSubstr;
using testing::Outcome;
using testing::Published;
using testing::Request;
using testing::SameSamples;

class GeneratorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(testing::WriteTinyFolder(folder(), testing::TinyDecoder(at::kFloat, 1)).ok());
  }
  std::string folder() const { return scratch_ / "model"; }
  void Serve(std::vector<std::string> sets = {}) {
    server_ = std::make_unique<GeneratorServer>(folder(), std::move(sets));
  }

  checkpoint::ScratchFolder scratch_;
  std::unique_ptr<GeneratorServer> server_;
};

TEST_F(GeneratorTest, GroupIsSampledAndDescribed) {
  Serve();
  EXPECT_TRUE(server_->Healthy());
  const Outcome outcome = server_->Generate(Request(1, 20, 4, 30));
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_EQ(outcome.header.version().run_id(), "");
  EXPECT_EQ(outcome.header.version().manifest_hash().size(), 32u);
  EXPECT_EQ(outcome.header.numerics().dtype(), "float32");
  ASSERT_EQ(outcome.samples.size(), 4u);
  for (const auto& [index, sample] : outcome.samples) {
    EXPECT_EQ(sample.tokens.size(), 30u);
    for (const float logprob : sample.logprobs) EXPECT_LE(logprob, 0.0f);
    EXPECT_TRUE(sample.sampling_logprobs.empty());
    ASSERT_EQ(sample.ends.size(), 1u);
    EXPECT_EQ(sample.ends[0].finish_reason(), v1::FINISH_REASON_LENGTH);
    EXPECT_EQ(sample.ends[0].num_tokens(), 30u);
  }
  EXPECT_NE(outcome.samples.at(0).tokens, outcome.samples.at(1).tokens);
}

TEST_F(GeneratorTest, ShortRequestSubmittedDuringALongOneEndsFirst) {
  Serve();
  v1::GenerateRequest slow = Request(1, 10, 16, 500);
  grpc::ClientContext context;
  GeneratorServer::SetDeadline(&context);
  const auto reader = server_->generator().Generate(&context, slow);
  Outcome slow_outcome;
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  testing::Collect(message, &slow_outcome);
  const uint64_t before = server_->State().engine_steps();
  ASSERT_TRUE(server_->Generate(Request(2, 10, 1, 3)).status.ok());
  const v1::ServerState after = server_->State();
  // The long one takes 500 steps; the short one was done in between, and both shared their steps.
  EXPECT_LT(after.engine_steps(), 500u);
  EXPECT_GE(after.engine_steps(), before + 3);
  EXPECT_EQ(after.running_samples(), 16u);
  while (reader->Read(&message)) testing::Collect(message, &slow_outcome);
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(slow_outcome.samples.at(0).tokens.size(), 500u);
  EXPECT_EQ(server_->State().engine_steps(), 500u);
}

TEST_F(GeneratorTest, SameRequestAloneAndInACrowd) {
  // A cache too small for the crowd: samples are preempted and computed again.
  Serve({"generator.max_step_tokens=64", "generator.max_running_samples=24",
         "generator.kv_cache_bytes=1500000"});
  v1::GenerateRequest request = Request(9, 37, 4, 60);
  request.mutable_sampling()->set_temperature(0.8f);
  const Outcome alone = server_->Generate(request);
  ASSERT_TRUE(alone.status.ok()) << alone.status;
  std::vector<std::thread> crowd;
  for (uint64_t i = 0; i < 12; ++i) {
    crowd.emplace_back([this, i] {
      const Outcome other =
          server_->Generate(Request(100 + i, 5 + static_cast<uint32_t>(i) * 13, 3, 70));
      EXPECT_TRUE(other.status.ok()) << other.status;
    });
  }
  for (int repeat = 0; repeat < 3; ++repeat)
    EXPECT_TRUE(SameSamples(alone, server_->Generate(request)));
  for (std::thread& thread : crowd) thread.join();
  EXPECT_THAT(server_->metrics_text(),
              ::testing::Not(HasSubstr("rollcall_generator_preemptions_total 0")));
  EXPECT_TRUE(server_->AwaitState([](const v1::ServerState& state) {
    return state.running_samples() == 0 && state.kv_tokens_free() == state.kv_tokens_total();
  }));
}

TEST_F(GeneratorTest, ALaterRequestComputesOnlyWhatTheCacheDoesNotKnow) {
  Serve();
  const v1::GenerateRequest request = Request(8, 100, 1, 30);
  const auto found = [this](int tokens) {
    return HasSubstr(
        absl::StrCat("rollcall_generator_prefix_cache_hit_tokens_total ", tokens, "\n"));
  };
  const Outcome first = server_->Generate(request);
  EXPECT_THAT(server_->metrics_text(), found(0));
  // Six whole blocks of 16: the last of the 100 tokens must be computed to draw from.
  EXPECT_TRUE(SameSamples(first, server_->Generate(request)));
  EXPECT_THAT(server_->metrics_text(), found(96));
  // A second turn begins with the prompt and the completion of the first.
  v1::GenerateRequest turn = request;
  for (const uint32_t token : first.samples.at(0).tokens) turn.add_prompt_token_ids(token);
  ASSERT_TRUE(server_->Generate(turn).status.ok());
  EXPECT_THAT(server_->metrics_text(), found(96 + 128));
  // Keys and values of other weights are never found.
  const Published other(testing::TinyDecoder(at::kFloat, 2), folder(), 1, 1);
  ASSERT_TRUE(server_->PushWeights(other.version, other.manifest, other.tensors).ok());
  const Outcome after = server_->Generate(request);
  ASSERT_TRUE(after.status.ok()) << after.status;
  EXPECT_THAT(server_->metrics_text(), found(96 + 128));
  EXPECT_FALSE(SameSamples(first, after));
  EXPECT_TRUE(SameSamples(after, server_->Generate(request)));
}

TEST_F(GeneratorTest, SamplesAreContinuedFromTheirPrefixes) {
  Serve();
  const v1::GenerateRequest whole = Request(3, 12, 3, 40);
  const Outcome first = server_->Generate(whole);
  v1::GenerateRequest resumed = whole;
  for (const uint32_t index : {2u, 0u}) {
    v1::SampleRequest& sample = *resumed.add_samples();
    sample.set_index(index);
    const auto& tokens = first.samples.at(index).tokens;
    sample.mutable_prefix_token_ids()->Assign(tokens.begin(), tokens.begin() + 7 + index * 9);
  }
  const Outcome second = server_->Generate(resumed);
  ASSERT_TRUE(second.status.ok()) << second.status;
  ASSERT_EQ(second.samples.size(), 2u);
  for (const auto& [index, sample] : second.samples) {
    const Outcome::Sample& original = first.samples.at(index);
    const size_t prefix = 7 + index * 9;
    ASSERT_EQ(sample.tokens.size(), 40 - prefix);
    EXPECT_TRUE(
        std::equal(sample.tokens.begin(), sample.tokens.end(), original.tokens.begin() + prefix));
    EXPECT_EQ(std::memcmp(sample.logprobs.data(), original.logprobs.data() + prefix,
                          4 * sample.tokens.size()),
              0);
    EXPECT_EQ(sample.ends[0].num_tokens(), 40u);
    EXPECT_EQ(sample.ends[0].version_spans(0).begin(), prefix);
  }
}

TEST_F(GeneratorTest, TruncatedSamplesCarryTheirLogProbs) {
  Serve();
  v1::GenerateRequest request = Request(4, 12, 2, 40);
  request.mutable_sampling()->set_top_k(5);
  request.mutable_sampling()->set_top_p(0.9f);
  const Outcome outcome = server_->Generate(request);
  for (const auto& [index, sample] : outcome.samples) {
    ASSERT_EQ(sample.sampling_logprobs.size(), sample.tokens.size());
    for (size_t i = 0; i < sample.tokens.size(); ++i) {
      EXPECT_NEAR(sample.sampling_logprobs[i] + sample.kept_log_mass[i], sample.logprobs[i], 1e-4);
    }
  }
  request = Request(4, 12, 2, 40);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_top_k(5);
  const Outcome greedy = server_->Generate(request);
  EXPECT_EQ(greedy.samples.at(0).tokens, greedy.samples.at(1).tokens);
  EXPECT_TRUE(greedy.samples.at(0).sampling_logprobs.empty());
}

TEST_F(GeneratorTest, StopsAtTokensAndStringsAndTheContext) {
  Serve();
  v1::GenerateRequest request = Request(6, 12, 1, 200);
  request.mutable_sampling()->set_temperature(2.0f);
  request.set_return_text(true);
  const Outcome free = server_->Generate(request);
  ASSERT_TRUE(free.status.ok()) << free.status;
  const std::vector<uint32_t>& tokens = free.samples.at(0).tokens;
  EXPECT_THAT(free.samples.at(0).text, HasSubstr(absl::StrCat("w", tokens[10])));

  const uint32_t stop = tokens[20];
  const size_t first =
      static_cast<size_t>(std::find(tokens.begin(), tokens.end(), stop) - tokens.begin());
  request.mutable_stop()->add_token_ids(stop);
  const Outcome by_token = server_->Generate(request);
  EXPECT_EQ(by_token.samples.at(0).tokens.size(), first + 1);
  EXPECT_EQ(by_token.samples.at(0).ends[0].finish_reason(), v1::FINISH_REASON_STOP_TOKEN);
  EXPECT_EQ(by_token.samples.at(0).ends[0].stop_token_id(), stop);

  request.mutable_stop()->clear_token_ids();
  request.mutable_stop()->add_strings("never");
  request.mutable_stop()->add_strings(absl::StrCat("w", tokens[20], " w", tokens[21], " "));
  const Outcome by_string = server_->Generate(request);
  EXPECT_EQ(by_string.samples.at(0).ends[0].finish_reason(), v1::FINISH_REASON_STOP_STRING);
  EXPECT_EQ(by_string.samples.at(0).ends[0].stop_string_index(), 1u);
  EXPECT_LE(by_string.samples.at(0).tokens.size(), 23u);

  v1::GenerateRequest full = Request(7, 500, 1, 512);
  const Outcome by_context = server_->Generate(full);
  EXPECT_EQ(by_context.samples.at(0).tokens.size(), 12u);
  EXPECT_EQ(by_context.samples.at(0).ends[0].finish_reason(), v1::FINISH_REASON_CONTEXT);
}

TEST_F(GeneratorTest, CancelAndDisconnectFreeTheirSlots) {
  Serve();
  for (int i = 0; i < 5; ++i) {
    grpc::ClientContext context;
    GeneratorServer::SetDeadline(&context);
    const auto reader = server_->generator().Generate(&context, Request(1, 10, 64, 500));
    v1::GenerateResponse message;
    ASSERT_TRUE(reader->Read(&message));
    context.TryCancel();
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_TRUE(server_->AwaitState([](const v1::ServerState& state) {
      return state.running_samples() + state.waiting_samples() == 0 &&
             state.kv_tokens_free() == state.kv_tokens_total();
    }));
  }
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Milliseconds(50)));
  const auto reader = server_->generator().Generate(&context, Request(1, 10, 256, 500));
  v1::GenerateResponse message;
  while (reader->Read(&message)) continue;
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(server_->AwaitState(
      [](const v1::ServerState& state) { return state.running_samples() == 0; }));
  EXPECT_LT(server_->State().engine_steps(), 6 * 500u);
  // Five cancels and a deadline.
  EXPECT_TRUE(testing::CancelsWithinAStep(server_->metrics_text(), 6));
}

TEST_F(GeneratorTest, SlowReaderHoldsNobodyUp) {
  Serve({"generator.kv_cache_bytes=100000000"});
  // A client whose transport takes only 16 KiB ahead of its reads.
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 16 << 10);
  const auto stub = v1::Generator::NewStub(
      grpc::CreateCustomChannel(server_->address(), grpc::InsecureChannelCredentials(), arguments));
  grpc::ClientContext context;
  GeneratorServer::SetDeadline(&context);
  const auto reader = stub->Generate(&context, Request(1, 10, 64, 500));
  // Nothing is read until the engine has finished.
  ASSERT_TRUE(server_->AwaitState(
      [](const v1::ServerState& state) { return state.engine_steps() >= 500; }));
  EXPECT_TRUE(server_->Generate(Request(2, 10, 1, 5)).status.ok());
  Outcome outcome;
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
    EXPECT_LE(message.ByteSizeLong(), size_t{1} << 20);
    testing::Collect(message, &outcome);
  }
  EXPECT_TRUE(reader->Finish().ok());
  // Steps that found the writer busy share a message.
  EXPECT_LT(outcome.messages, 300);
  ASSERT_EQ(outcome.samples.size(), 64u);
  for (const auto& [index, sample] : outcome.samples) EXPECT_EQ(sample.tokens.size(), 500u);
}

TEST_F(GeneratorTest, HostileRequestsAreRefusedAndTheServerLivesOn) {
  Serve();
  const std::vector<std::pair<std::string, std::function<void(v1::GenerateRequest&)>>> cases = {
      {"prompt_token_ids[0]", [](auto& r) { r.set_prompt_token_ids(0, 77); }},
      {"prompt_token_ids", [](auto& r) { r.clear_prompt_token_ids(); }},
      {"prompt_token_ids", [](auto& r) { r.mutable_prompt_token_ids()->Resize(512, 1); }},
      {"num_samples", [](auto& r) { r.set_num_samples(0); }},
      {"sampling.temperature",
       [](auto& r) { r.mutable_sampling()->set_temperature(std::nanf("")); }},
      {"sampling.max_tokens", [](auto& r) { r.clear_sampling(); }},
      {"key", [](auto& r) { r.clear_key(); }}};
  for (const auto& [field, change] : cases) {
    v1::GenerateRequest request = Request(1, 10, 2, 5);
    change(request);
    const Outcome outcome = server_->Generate(request);
    EXPECT_EQ(outcome.status.code(), absl::StatusCode::kInvalidArgument) << field;
    EXPECT_THAT(std::string(outcome.status.message()), ::testing::StartsWith(field));
  }
  v1::GenerateRequest request = Request(1, 10, 2, 5);
  request.mutable_min_version()->set_run_id("other");
  EXPECT_EQ(server_->Generate(request).status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(server_->Generate(Request(1, 10, 2, 5)).status.ok());
}

// One call of a client that misbehaves in a random way.
void CallUnruly(GeneratorServer& server, uint64_t seed) {
  PhiloxStream random(seed, 1);
  v1::GenerateRequest request = Request(seed, 1 + static_cast<uint32_t>(random.Below(100)),
                                        1 + static_cast<uint32_t>(random.Below(8)),
                                        1 + static_cast<uint32_t>(random.Below(200)));
  grpc::ClientContext context;
  GeneratorServer::SetDeadline(&context);
  const uint64_t kind = random.Below(4);
  if (kind == 0) request.set_prompt_token_ids(0, static_cast<uint32_t>(random.Next32()) | 128u);
  if (kind == 1) {
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Microseconds(random.Below(20000))));
  }
  const auto reader = server.generator().Generate(&context, request);
  v1::GenerateResponse message;
  const uint64_t cancel_after = kind == 2 ? random.Below(5) : 1000000;
  for (uint64_t reads = 0; reads < cancel_after && reader->Read(&message); ++reads) continue;
  if (kind == 2) context.TryCancel();
  if (kind == 2 && random.Below(2) == 0) return;  // the reader is dropped unfinished
  const grpc::Status status = reader->Finish();
  if (kind == 0) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  } else if (kind == 3) {
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
}

TEST_F(GeneratorTest, SurvivesACrowdOfUnrulyClients) {
  Serve({"generator.kv_cache_bytes=3000000", "generator.max_running_samples=48"});
  const v1::GenerateRequest request = Request(9, 37, 4, 60);
  const Outcome before = server_->Generate(request);
  std::vector<std::thread> clients;
  for (uint64_t client = 0; client < 24; ++client) {
    clients.emplace_back([this, client] {
      for (uint64_t call = 0; call < 8; ++call) CallUnruly(*server_, client * 100 + call);
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(SameSamples(before, server_->Generate(request)));
  EXPECT_TRUE(server_->AwaitState([](const v1::ServerState& state) {
    return state.running_samples() + state.waiting_samples() == 0 &&
           state.kv_tokens_free() == state.kv_tokens_total();
  }));
}

TEST_F(GeneratorTest, FullQueueSaysWhenToRetry) {
  Serve({"generator.max_running_samples=1", "generator.max_waiting_samples=8"});
  grpc::ClientContext context;
  const auto reader = server_->generator().Generate(&context, Request(1, 10, 8, 500));
  ASSERT_TRUE(server_->AwaitState(
      [](const v1::ServerState& state) { return state.running_samples() == 1; }));
  const Outcome refused = server_->Generate(Request(2, 10, 4, 5));
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(refused.retry_after_ms.empty());
  context.TryCancel();
  reader->Finish();
}

TEST_F(GeneratorTest, WaitsForWeightsAndServesWhatIsPushed) {
  Serve({"generator.wait_for_weights=true"});
  EXPECT_FALSE(server_->Healthy());
  EXPECT_FALSE(server_->State().ready());
  EXPECT_FALSE(server_->State().has_version());
  EXPECT_EQ(server_->Generate(Request(1, 10, 2, 5)).status.code(),
            absl::StatusCode::kFailedPrecondition);

  const Published first(testing::TinyDecoder(at::kFloat, 1), folder(), 1, 0);
  ASSERT_TRUE(server_->PushWeights(first.version, first.manifest, first.tensors).ok());
  EXPECT_TRUE(server_->Healthy());
  EXPECT_TRUE(server_->State().ready());
  v1::GenerateRequest request = Request(1, 10, 2, 50);
  *request.mutable_min_version() = first.version;
  const Outcome pushed = server_->Generate(request);
  EXPECT_EQ(pushed.header.version().run_id(), "run");

  // The folder holds the same weights.
  GeneratorServer loaded(folder(), {});
  EXPECT_TRUE(SameSamples(pushed, loaded.Generate(Request(1, 10, 2, 50))));
  EXPECT_EQ(loaded.State().version().manifest_hash(), first.version.manifest_hash());

  const Published second(testing::TinyDecoder(at::kFloat, 2), folder(), 1, 1);
  ASSERT_TRUE(server_->PushWeights(second.version, second.manifest, second.tensors).ok());
  EXPECT_FALSE(SameSamples(pushed, server_->Generate(request)));
}

TEST_F(GeneratorTest, RefusesForeignAndDamagedWeights) {
  Serve();
  const model::Decoder decoder = testing::TinyDecoder(at::kFloat, 3);
  const Published held(decoder, folder(), 2, 4);
  ASSERT_TRUE(server_->PushWeights(held.version, held.manifest, held.tensors).ok());
  const auto push = [&](uint64_t lineage, uint64_t step, const std::string& run) {
    Published published(testing::TinyDecoder(at::kFloat, 4), folder(), lineage, step);
    published.version.set_run_id(run);
    return server_->PushWeights(published.version, published.manifest, published.tensors).code();
  };
  EXPECT_EQ(push(2, 5, "zombie"), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(push(1, 9, "run"), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(push(2, 4, "run"), absl::StatusCode::kFailedPrecondition);

  Published damaged(testing::TinyDecoder(at::kFloat, 4), folder(), 2, 5);
  damaged.tensors[3][17] ^= 1;
  const absl::Status status =
      server_->PushWeights(damaged.version, damaged.manifest, damaged.tensors);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(status.message(), HasSubstr(damaged.manifest.tensors(3).name()));
  // The old weights serve on; the server is not up to date until the transfer is completed.
  EXPECT_FALSE(server_->State().ready());
  EXPECT_EQ(server_->State().version().step(), 4u);
  EXPECT_TRUE(server_->Generate(Request(1, 10, 2, 5)).status.ok());
  EXPECT_EQ(push(2, 5, "run"), absl::StatusCode::kOk);
  EXPECT_TRUE(server_->State().ready());
}

TEST_F(GeneratorTest, WeightsAreNotFetched) {
  Serve();
  grpc::ClientContext context;
  GeneratorServer::SetDeadline(&context);
  const auto reader = server_->weights().Fetch(&context, v1::FetchRequest());
  v1::FetchResponse message;
  EXPECT_FALSE(reader->Read(&message));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(GeneratorTest, DrainRefusesNewCallsAndFinishesOldOnes) {
  Serve();
  grpc::ClientContext context;
  GeneratorServer::SetDeadline(&context);
  const auto reader = server_->generator().Generate(&context, Request(1, 10, 8, 300));
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  server_->service().CloseIntake();
  EXPECT_EQ(server_->Generate(Request(2, 10, 1, 5)).status.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(server_->service().Drain(absl::Now() + testing::kPatience).ok());
  while (reader->Read(&message)) continue;
  EXPECT_TRUE(reader->Finish().ok());
}

}  // namespace
}  // namespace rollcall::generator
