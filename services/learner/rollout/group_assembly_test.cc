#include "services/learner/rollout/group_assembly.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

namespace rollcall::learner {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::PolicyVersion Version(uint64_t step) {
  v1::PolicyVersion version;
  version.set_run_id("run");
  version.set_lineage(2);
  version.set_step(step);
  version.set_manifest_hash("hash of step " + std::to_string(step));
  return version;
}

class GroupAssemblyTest : public ::testing::Test {
 protected:
  GroupAssemblyTest()
      : assembly_({.num_samples = 2, .max_tokens = 8, .vocab_size = 50}, &versions_) {
    versions_.Add(Version(3));
    versions_.Add(Version(4));
  }

  static v1::GenerateResponse Header(uint64_t step = 3) {
    v1::GenerateResponse message;
    *message.mutable_header()->mutable_version() = Version(step);
    return message;
  }

  static void AddDelta(v1::GenerateResponse& message, uint32_t index, uint32_t offset,
                       const std::vector<uint32_t>& tokens, uint64_t step = 3) {
    v1::SampleDelta* delta = message.add_deltas();
    delta->set_index(index);
    delta->set_offset(offset);
    delta->set_policy_step(step);
    for (const uint32_t token : tokens) {
      delta->add_token_ids(token);
      delta->add_logprobs(-0.5f * static_cast<float>(token));
    }
  }

  // Spans are (begin, end, step).
  static void AddEnd(v1::GenerateResponse& message, uint32_t index, uint32_t tokens,
                     const std::vector<std::array<uint32_t, 3>>& spans) {
    v1::SampleEnd* end = message.add_ends();
    end->set_index(index);
    end->set_num_tokens(tokens);
    end->set_finish_reason(v1::FINISH_REASON_STOP_TOKEN);
    for (const auto& [begin, stop, step] : spans) {
      v1::VersionSpan* span = end->add_version_spans();
      span->set_begin(begin);
      span->set_end(stop);
      *span->mutable_version() = Version(step);
    }
  }

  v1::GenerateRequest Begin(uint64_t min_step = 3) {
    v1::GenerateRequest request;
    assembly_.BeginStream(Version(min_step), request);
    return request;
  }

  PublishedVersions versions_;
  GroupAssembly assembly_;
};

TEST_F(GroupAssemblyTest, PutsInterleavedSamplesTogether) {
  EXPECT_EQ(Begin().samples_size(), 0);
  v1::GenerateResponse message = Header();
  AddDelta(message, 1, 0, {7});
  AddDelta(message, 0, 0, {1, 2});
  AddDelta(message, 1, 1, {8});
  AddEnd(message, 1, 2, {{0, 2, 3}});
  ASSERT_TRUE(assembly_.OnMessage(message).ok());
  EXPECT_FALSE(assembly_.complete());
  EXPECT_THAT(std::string(assembly_.CheckComplete().message()), HasSubstr("sample 0"));
  v1::GenerateResponse last;
  AddDelta(last, 0, 2, {3}, 4);
  AddEnd(last, 0, 3, {{0, 2, 3}, {2, 3, 4}});
  ASSERT_TRUE(assembly_.OnMessage(last).ok());
  ASSERT_TRUE(assembly_.complete());

  const v1::Segment segment = assembly_.BuildSegment(0);
  EXPECT_THAT(segment.token_ids(), ElementsAre(1, 2, 3));
  EXPECT_THAT(segment.logprobs(), ElementsAre(-0.5f, -1.0f, -1.5f));
  ASSERT_EQ(segment.version_spans_size(), 2);
  EXPECT_EQ(segment.version_spans(1).begin(), 2u);
  EXPECT_EQ(segment.version_spans(1).version().manifest_hash(), "hash of step 4");
}

TEST_F(GroupAssemblyTest, AFailedStreamIsCarriedOnFromWhatItDelivered) {
  Begin();
  v1::GenerateResponse message = Header();
  AddDelta(message, 0, 0, {1, 2, 3});
  AddDelta(message, 1, 0, {7, 8});
  AddEnd(message, 1, 2, {{0, 2, 3}});
  ASSERT_TRUE(assembly_.OnMessage(message).ok());

  // The last token is sampled again: it might have been the one that ends the completion.
  const v1::GenerateRequest request = Begin();
  ASSERT_EQ(request.samples_size(), 1);
  EXPECT_EQ(request.samples(0).index(), 0u);
  EXPECT_THAT(request.samples(0).prefix_token_ids(), ElementsAre(1, 2));

  v1::GenerateResponse rest = Header();
  AddDelta(rest, 0, 2, {3, 4});
  AddEnd(rest, 0, 4, {{2, 4, 3}});
  ASSERT_TRUE(assembly_.OnMessage(rest).ok());
  EXPECT_TRUE(assembly_.complete());
  EXPECT_THAT(assembly_.BuildSegment(0).token_ids(), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(assembly_.BuildSegment(0).logprobs(), ElementsAre(-0.5f, -1.0f, -1.5f, -2.0f));
}

TEST_F(GroupAssemblyTest, RollbackForgetsOnlyTheOpenStream) {
  Begin();
  v1::GenerateResponse message = Header();
  AddDelta(message, 0, 0, {1, 2, 3});
  ASSERT_TRUE(assembly_.OnMessage(message).ok());
  Begin();
  v1::GenerateResponse bad = Header();
  AddDelta(bad, 0, 2, {9, 9});
  AddDelta(bad, 1, 0, {5});
  AddEnd(bad, 1, 1, {{0, 1, 3}});
  ASSERT_TRUE(assembly_.OnMessage(bad).ok());
  assembly_.Rollback();
  EXPECT_THAT(assembly_.samples()[0].token_ids, ElementsAre(1, 2));
  EXPECT_THAT(assembly_.samples()[1].token_ids, ElementsAre());
  EXPECT_FALSE(assembly_.samples()[1].ended);
}

TEST_F(GroupAssemblyTest, TruncationColumnsCoverAllTokensOrNone) {
  Begin();
  v1::GenerateResponse message = Header();
  AddDelta(message, 0, 0, {1});
  AddDelta(message, 0, 1, {2});
  message.mutable_deltas(1)->add_sampling_logprobs(-0.25f);
  message.mutable_deltas(1)->add_kept_log_mass(-0.1f);
  AddDelta(message, 0, 2, {3});
  ASSERT_TRUE(assembly_.OnMessage(message).ok());
  const auto& sample = assembly_.samples()[0];
  EXPECT_THAT(sample.sampling_logprobs, ElementsAre(-0.5f, -0.25f, -1.5f));
  EXPECT_THAT(sample.kept_log_mass, ElementsAre(0.0f, -0.1f, 0.0f));
}

TEST_F(GroupAssemblyTest, PenalisedSamplesHaveNoMassColumn) {
  Begin();
  v1::GenerateResponse message = Header();
  AddDelta(message, 0, 0, {1});
  AddDelta(message, 0, 1, {2});
  message.mutable_deltas(1)->add_sampling_logprobs(-0.25f);
  ASSERT_TRUE(assembly_.OnMessage(message).ok());
  EXPECT_THAT(assembly_.samples()[0].sampling_logprobs, ElementsAre(-0.5f, -0.25f));
  EXPECT_THAT(assembly_.samples()[0].kept_log_mass, ElementsAre());
}

// Each case is one way to break the contract and the field that the refusal names.
struct Garbage {
  std::string name;
  std::function<void(v1::GenerateResponse&)> spoil;
  std::string field;
};

class GroupAssemblyGarbageTest : public GroupAssemblyTest,
                                 public ::testing::WithParamInterface<Garbage> {
 public:
  // A whole answer of one message, before it is spoiled.
  static v1::GenerateResponse Good() {
    v1::GenerateResponse message = Header();
    AddDelta(message, 0, 0, {1, 2});
    AddEnd(message, 0, 2, {{0, 2, 3}});
    return message;
  }
};

TEST_P(GroupAssemblyGarbageTest, IsRefusedByField) {
  Begin();
  v1::GenerateResponse message = Good();
  GetParam().spoil(message);
  const absl::Status status = assembly_.OnMessage(message);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().field));
  assembly_.Rollback();
  EXPECT_TRUE(assembly_.samples()[0].token_ids.empty());
}

INSTANTIATE_TEST_SUITE_P(
    All, GroupAssemblyGarbageTest,
    ::testing::ValuesIn(std::vector<Garbage>{
        {"NoHeader", [](auto& m) { m.clear_header(); }, "header"},
        {"OtherRun", [](auto& m) { m.mutable_header()->mutable_version()->set_run_id("x"); },
         "header.version"},
        {"OtherLineage", [](auto& m) { m.mutable_header()->mutable_version()->set_lineage(1); },
         "header.version"},
        {"OlderStep", [](auto& m) { m.mutable_header()->mutable_version()->set_step(2); },
         "header.version"},
        {"OtherWeights",
         [](auto& m) { m.mutable_header()->mutable_version()->set_manifest_hash("x"); },
         "header.version"},
        {"IndexTooLarge", [](auto& m) { m.mutable_deltas(0)->set_index(2); }, "index"},
        {"OffsetWithGap", [](auto& m) { m.mutable_deltas(0)->set_offset(1); }, "offset"},
        {"TokenOutsideVocabulary", [](auto& m) { m.mutable_deltas(0)->set_token_ids(1, 50); },
         "token_ids[1]"},
        {"PositiveLogProb", [](auto& m) { m.mutable_deltas(0)->set_logprobs(0, 0.1f); },
         "logprobs[0]"},
        {"NanLogProb",
         [](auto& m) {
           m.mutable_deltas(0)->set_logprobs(1, std::numeric_limits<float>::quiet_NaN());
         },
         "logprobs[1]"},
        {"MissingLogProb", [](auto& m) { m.mutable_deltas(0)->mutable_logprobs()->RemoveLast(); },
         "logprobs"},
        {"ShortColumn", [](auto& m) { m.mutable_deltas(0)->add_sampling_logprobs(-1); },
         "sampling_logprobs"},
        {"UnpublishedStep", [](auto& m) { m.mutable_deltas(0)->set_policy_step(9); },
         "policy_step"},
        {"WrongCount", [](auto& m) { m.mutable_ends(0)->set_num_tokens(3); }, "num_tokens"},
        {"NoFinishReason",
         [](auto& m) { m.mutable_ends(0)->set_finish_reason(v1::FINISH_REASON_UNSPECIFIED); },
         "finish_reason"},
        {"SpanWithGap", [](auto& m) { m.mutable_ends(0)->mutable_version_spans(0)->set_begin(1); },
         "version_spans[0]"},
        {"SpansTooShort", [](auto& m) { m.mutable_ends(0)->mutable_version_spans(0)->set_end(1); },
         "version_spans"},
        {"SpanOfOtherStep",
         [](auto& m) {
           *m.mutable_ends(0)->mutable_version_spans(0)->mutable_version() = Version(4);
         },
         "version_spans[0]"},
        {"TooManyTokens",
         [](auto& m) {
           for (int i = 0; i < 8; ++i) {
             m.mutable_deltas(0)->add_token_ids(1);
             m.mutable_deltas(0)->add_logprobs(-1);
           }
         },
         "max_tokens"},
        {"TwoEnds", [](auto& m) { *m.add_ends() = m.ends(0); }, "ends[1]"},
        {"TokensAfterTheEnd",
         [](auto& m) {
           *m.add_ends() = m.ends(0);
           m.mutable_ends(1)->set_index(1);
         },
         "num_tokens"},
    }),
    [](const auto& test) { return test.param.name; });

TEST_F(GroupAssemblyTest, MixedTokensStayMarkedAlsoAcrossStreams) {
  Begin();
  v1::GenerateResponse message = Header();
  AddDelta(message, 0, 0, {1, 2});
  AddDelta(message, 0, 2, {3, 4}, 4);
  message.mutable_deltas(1)->set_mixed_kv(true);
  ASSERT_TRUE(assembly_.OnMessage(message).ok());
  // The stream breaks; its last token is made again.
  Begin(4);
  message = Header(4);
  AddDelta(message, 0, 3, {4, 5}, 4);
  AddEnd(message, 0, 5, {{3, 5, 4}});
  ASSERT_TRUE(assembly_.OnMessage(message).ok());
  const v1::Segment segment = assembly_.BuildSegment(0);
  ASSERT_EQ(segment.version_spans_size(), 3);
  EXPECT_FALSE(segment.version_spans(0).mixed_kv());
  EXPECT_TRUE(segment.version_spans(1).mixed_kv());
  EXPECT_EQ(segment.version_spans(1).end(), 3u);
  EXPECT_FALSE(segment.version_spans(2).mixed_kv());
}

TEST_F(GroupAssemblyTest, ASpanThatHidesMixedTokensIsRefused) {
  Begin();
  v1::GenerateResponse message = Header();
  AddDelta(message, 0, 0, {1, 2});
  message.mutable_deltas(0)->set_mixed_kv(true);
  AddEnd(message, 0, 2, {{0, 2, 3}});
  EXPECT_THAT(assembly_.OnMessage(message).message(), HasSubstr("mixed_kv"));
}

TEST_F(GroupAssemblyTest, DeltasAfterTheEndAreRefused) {
  Begin();
  v1::GenerateResponse message = GroupAssemblyGarbageTest::Good();
  ASSERT_TRUE(assembly_.OnMessage(message).ok());
  v1::GenerateResponse more;
  AddDelta(more, 0, 2, {3});
  EXPECT_THAT(std::string(assembly_.OnMessage(more).message()),
              HasSubstr("after the sample's end"));
}

TEST_F(GroupAssemblyTest, SamplesThatWereNotAskedForAreRefused) {
  Begin();
  v1::GenerateResponse message = GroupAssemblyGarbageTest::Good();
  ASSERT_TRUE(assembly_.OnMessage(message).ok());
  EXPECT_EQ(Begin().samples_size(), 1);  // only sample 1
  v1::GenerateResponse again = Header();
  AddDelta(again, 0, 2, {3});
  EXPECT_THAT(std::string(assembly_.OnMessage(again).message()), HasSubstr("not asked for"));
}

}  // namespace
}  // namespace rollcall::learner
