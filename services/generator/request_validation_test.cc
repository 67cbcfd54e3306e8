#include "services/generator/request_validation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

namespace rollcall::generator {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

const RequestLimits kNoTokenizer{
    .vocab_size = 100, .context_length = 50, .eos_token_ids = {}, .has_tokenizer = false};

RequestLimits Limits() {
  return {.vocab_size = 100, .context_length = 50, .eos_token_ids = {2}, .has_tokenizer = true};
}

v1::GenerateRequest Request() {
  v1::GenerateRequest request;
  request.mutable_key()->set_purpose(v1::RANDOM_PURPOSE_ROLLOUT);
  for (uint32_t i = 0; i < 10; ++i) request.add_prompt_token_ids(i);
  request.set_num_samples(4);
  request.mutable_sampling()->set_max_tokens(20);
  return request;
}

TEST(ParseGenerateRequestTest, FillsInDefaults) {
  const auto parsed = ParseGenerateRequest(Request(), Limits());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->sampling.temperature, 1.0f);
  EXPECT_FALSE(parsed->sampling.truncates());
  EXPECT_EQ(parsed->samples.size(), 4u);
  EXPECT_EQ(parsed->samples[3].index, 3u);
  EXPECT_THAT(parsed->stop.token_ids, ElementsAre(2));
  EXPECT_EQ(parsed->stop.max_completion, 40u);
  EXPECT_FALSE(parsed->min_version.has_value());
}

TEST(ParseGenerateRequestTest, KeepsWhatIsAsked) {
  v1::GenerateRequest request = Request();
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stop()->set_ignore_eos(true);
  request.mutable_stop()->add_token_ids(9);
  request.mutable_stop()->add_token_ids(5);
  request.mutable_stop()->add_strings("end");
  v1::SampleRequest& sample = *request.add_samples();
  sample.set_index(2);
  sample.add_prefix_token_ids(7);
  const auto parsed = ParseGenerateRequest(request, Limits());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->sampling.temperature, 0.0f);
  EXPECT_THAT(parsed->stop.token_ids, ElementsAre(5, 9));
  ASSERT_EQ(parsed->samples.size(), 1u);
  EXPECT_EQ(parsed->samples[0].index, 2u);
  EXPECT_THAT(parsed->samples[0].prefix, ElementsAre(7));
}

struct HostileCase {
  std::string field;  // that the message starts with
  std::function<void(v1::GenerateRequest&)> change;
};

TEST(ParseGenerateRequestTest, HostileRequestsNameTheField) {
  using R = v1::GenerateRequest;
  const float nan = std::nanf("");
  const std::vector<HostileCase> cases = {
      {"key:", [](R& r) { r.clear_key(); }},
      {"key.purpose:", [](R& r) { r.mutable_key()->clear_purpose(); }},
      {"key.purpose:",
       [](R& r) { r.mutable_key()->set_purpose(static_cast<v1::RandomPurpose>(77)); }},
      {"prompt_token_ids:", [](R& r) { r.clear_prompt_token_ids(); }},
      {"prompt_token_ids[10]:", [](R& r) { r.add_prompt_token_ids(100); }},
      {"prompt_token_ids:", [](R& r) { r.mutable_prompt_token_ids()->Resize(50, 1); }},
      {"num_samples:", [](R& r) { r.set_num_samples(0); }},
      {"num_samples:", [](R& r) { r.set_num_samples(1025); }},
      {"samples[0].index:", [](R& r) { r.add_samples()->set_index(4); }},
      {"samples[1].index:",
       [](R& r) {
         r.add_samples()->set_index(1);
         r.add_samples()->set_index(1);
       }},
      {"samples[0].prefix_token_ids:",
       [](R& r) { r.add_samples()->mutable_prefix_token_ids()->Resize(20, 1); }},
      {"samples[0].prefix_token_ids[0]:", [](R& r) { r.add_samples()->add_prefix_token_ids(100); }},
      {"sampling.temperature:", [=](R& r) { r.mutable_sampling()->set_temperature(nan); }},
      {"sampling.temperature:", [](R& r) { r.mutable_sampling()->set_temperature(-1); }},
      {"sampling.temperature:", [](R& r) { r.mutable_sampling()->set_temperature(101); }},
      {"sampling.temperature:", [](R& r) { r.mutable_sampling()->set_temperature(1e-30f); }},
      {"sampling.top_p:", [=](R& r) { r.mutable_sampling()->set_top_p(nan); }},
      {"sampling.top_p:", [](R& r) { r.mutable_sampling()->set_top_p(0); }},
      {"sampling.top_p:", [](R& r) { r.mutable_sampling()->set_top_p(1.5); }},
      {"sampling.min_p:", [=](R& r) { r.mutable_sampling()->set_min_p(nan); }},
      {"sampling.min_p:", [](R& r) { r.mutable_sampling()->set_min_p(-0.1f); }},
      {"sampling.repetition_penalty:",
       [=](R& r) { r.mutable_sampling()->set_repetition_penalty(nan); }},
      {"sampling.repetition_penalty:",
       [](R& r) { r.mutable_sampling()->set_repetition_penalty(0); }},
      {"sampling.presence_penalty:",
       [=](R& r) { r.mutable_sampling()->set_presence_penalty(nan); }},
      {"sampling.frequency_penalty:",
       [](R& r) { r.mutable_sampling()->set_frequency_penalty(-101); }},
      {"sampling.no_repeat_ngram_size:",
       [](R& r) { r.mutable_sampling()->set_no_repeat_ngram_size(1025); }},
      {"sampling.logit_bias[0].token_id:",
       [](R& r) { r.mutable_sampling()->add_logit_bias()->set_token_id(100); }},
      {"sampling.logit_bias[1].token_id:",
       [](R& r) {
         r.mutable_sampling()->add_logit_bias()->set_token_id(1);
         r.mutable_sampling()->add_logit_bias()->set_token_id(1);
       }},
      {"sampling.logit_bias[0].bias:",
       [=](R& r) { r.mutable_sampling()->add_logit_bias()->set_bias(nan); }},
      {"sampling.logit_bias:",
       [](R& r) {
         for (int i = 0; i < 1025; ++i) r.mutable_sampling()->add_logit_bias();
       }},
      {"sampling.bad_words[0].token_ids:", [](R& r) { r.mutable_sampling()->add_bad_words(); }},
      {"sampling.bad_words[0].token_ids[0]:",
       [](R& r) { r.mutable_sampling()->add_bad_words()->add_token_ids(100); }},
      {"sampling.bad_words:",
       [](R& r) {
         for (int i = 0; i < 257; ++i) r.mutable_sampling()->add_bad_words()->add_token_ids(1);
       }},
      {"sampling.top_logprobs:", [](R& r) { r.mutable_sampling()->set_top_logprobs(65); }},
      {"sampling.max_tokens:", [](R& r) { r.clear_sampling(); }},
      {"sampling.max_tokens:", [](R& r) { r.mutable_sampling()->set_max_tokens(51); }},
      {"sampling.min_tokens:", [](R& r) { r.mutable_sampling()->set_min_tokens(21); }},
      {"stop.token_ids[0]:", [](R& r) { r.mutable_stop()->add_token_ids(100); }},
      {"stop.token_ids:", [](R& r) { r.mutable_stop()->mutable_token_ids()->Resize(65, 1); }},
      {"stop.strings[0]:", [](R& r) { r.mutable_stop()->add_strings(""); }},
      {"stop.strings[0]:", [](R& r) { r.mutable_stop()->add_strings(std::string(257, 'x')); }},
      {"stop.strings:",
       [](R& r) {
         for (int i = 0; i < 17; ++i) r.mutable_stop()->add_strings("x");
       }},
      {"request:", [](R& r) { r.mutable_min_version()->set_run_id(std::string(1 << 20, 'x')); }},
  };
  for (const HostileCase& hostile : cases) {
    v1::GenerateRequest request = Request();
    hostile.change(request);
    const absl::Status status = ParseGenerateRequest(request, Limits()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << hostile.field;
    EXPECT_THAT(std::string(status.message()), StartsWith(hostile.field));
  }
}

TEST(ParseGenerateRequestTest, TextNeedsATokenizer) {
  v1::GenerateRequest request = Request();
  request.set_return_text(true);
  EXPECT_EQ(ParseGenerateRequest(request, kNoTokenizer).status().code(),
            absl::StatusCode::kFailedPrecondition);
  request = Request();
  request.mutable_stop()->add_strings("x");
  EXPECT_THAT(ParseGenerateRequest(request, kNoTokenizer).status().message(),
              HasSubstr("stop.strings"));
  EXPECT_TRUE(ParseGenerateRequest(Request(), kNoTokenizer).ok());
}

}  // namespace
}  // namespace rollcall::generator
