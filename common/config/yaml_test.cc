#include "common/config/yaml.h"

#include <gmock/gmock.h>
#include <google/protobuf/dynamic_message.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/file.h"
#include "common/base/philox.h"
#include "common/config/field_rules.h"
#include "common/config/yaml_tree.h"
#include "google/protobuf/struct.pb.h"
#include "rollcall/v1/config.pb.h"

namespace rollcall::config {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr char kSmall[] =
    "model: {path: m}\n"
    "learner:\n"
    "  steps: 7\n"
    "  optimizer:\n"
    "    lr: 1e-4\n";

absl::Status Parse(std::string_view text, v1::RunConfig* config,
                   const std::vector<std::string>& sets = {}) {
  return ParseYaml(text, "run.yaml", sets, config);
}

std::string ErrorOf(std::string_view text, const std::vector<std::string>& sets = {}) {
  v1::RunConfig config;
  const absl::Status status = Parse(text, &config, sets);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  return std::string(status.message());
}

TEST(ParseYamlTest, ReadsValuesAndFillsDefaultsInEverySection) {
  v1::RunConfig config;
  ASSERT_EQ(Parse(kSmall, &config), absl::OkStatus());
  EXPECT_EQ(config.model().path(), "m");
  EXPECT_EQ(config.learner().steps(), 7u);
  EXPECT_EQ(config.learner().optimizer().lr(), 1e-4f);
  EXPECT_EQ(config.learner().optimizer().beta1(), 0.9f);
  EXPECT_EQ(config.stage(), v1::STAGE_RL);
  EXPECT_EQ(config.model().dtype(), v1::COMPUTE_DTYPE_FLOAT32);
  EXPECT_EQ(config.generator().kv_block_tokens(), 16u);
  EXPECT_TRUE(config.has_evaluation());
  EXPECT_FALSE(config.evaluation().has_temperature());
}

TEST(ParseYamlTest, AWrittenZeroIsNotReplacedByTheDefault) {
  v1::RunConfig config;
  ASSERT_EQ(Parse("model: {path: m}\nalgorithm: {kl_coefficient: 0}\n"
                  "evaluation: {temperature: 0}\ndata: {shuffle: false}\nname: \"\"\n",
                  &config),
            absl::OkStatus());
  EXPECT_EQ(config.algorithm().kl_coefficient(), 0.0f);
  EXPECT_FALSE(config.data().shuffle());
  EXPECT_TRUE(config.evaluation().has_temperature());
  EXPECT_EQ(config.name(), "");
}

TEST(ParseYamlTest, OnlyTheWrittenMemberOfAOneofExistsAndItGetsItsDefaults) {
  v1::RunConfig config;
  ASSERT_EQ(Parse("model: {path: m}\nreward:\n  verifiers:\n"
                  "    - name: a\n      exact_match: {after: '='}\n"
                  "    - {name: b, numeric_answer: {}}\n"
                  "    - name: c\n      length:\n",
                  &config),
            absl::OkStatus());
  const auto& verifiers = config.reward().verifiers();
  ASSERT_EQ(verifiers.size(), 3);
  EXPECT_EQ(verifiers[0].exact_match().answer_column(), "answer");
  EXPECT_EQ(verifiers[0].weight(), 1.0);
  EXPECT_FALSE(verifiers[0].has_gate());
  EXPECT_EQ(verifiers[1].numeric_answer().marker(), "####");
  EXPECT_EQ(verifiers[2].kind_case(), v1::VerifierConfig::kLength);
  EXPECT_THAT(ErrorOf("reward:\n  verifiers:\n    - name: a\n      length: {}\n      regex: {}\n"),
              HasSubstr("run.yaml:5: reward.verifiers[0].regex: only one kind may be given, and "
                        "length is at run.yaml:4"));
}

TEST(ParseYamlTest, ErrorsNameFileLineAndPath) {
  const struct {
    const char* yaml;
    const char* error;
  } kCases[] = {
      {"learner:\n  optimizer:\n    lr: -1\n",
       "run.yaml:3: learner.optimizer.lr: must be >= 0, got -1"},
      {"learner:\n  stpes: 3\n", "run.yaml:2: learner.stpes: unknown field; did you mean steps?"},
      {"zebra_crossing: 1\n", "run.yaml:1: zebra_crossing: unknown field; expected one of name,"},
      {"stage: lr\n",
       "run.yaml:1: stage: expected one of rl, sft, eval, reward_model, dpo, simpo, orpo, kto, "
       "rlaif, got \"lr\""},
      {"stage: unspecified\n", "run.yaml:1: stage: expected one of rl, sft"},
      {"stage: RL\n", "run.yaml:1: stage: expected one of rl, sft"},
      {"seed: -1\n", "run.yaml:1: seed: expected an integer from 0 to 18446744073709551615"},
      {"seed: 18446744073709551616\n", "run.yaml:1: seed: expected an integer"},
      {"seed: 1.0\n", "run.yaml:1: seed: expected an integer"},
      {"seed: \"1\"\n", "got the string \"1\""},
      {"seed:\n\nname: x\n",
       "run.yaml:1: seed: expected an integer from 0 to "
       "18446744073709551615, got nothing"},
      {"learner: {threads: 4294967296}\n", "learner.threads: expected an integer from 0 to 429496"},
      {"learner: {threads: 1025}\n", "learner.threads: must be <= 1024, got 1025"},
      {"algorithm: {clip_low: .nan}\n", "algorithm.clip_low: expected a finite number"},
      {"algorithm: {clip_low: nan}\n", "algorithm.clip_low: expected a finite number"},
      {"algorithm: {clip_high: inf}\n", "algorithm.clip_high: expected a finite number"},
      {"algorithm: {clip_high: 1e60}\n", "algorithm.clip_high: expected a finite number"},
      {"sampling: {top_p: 0}\n", "sampling.top_p: must be > 0 and <= 1, got 0"},
      {"data: {shuffle: yes}\n", "data.shuffle: expected true or false, got \"yes\""},
      {"learner: 3\n", "run.yaml:1: learner: expected a section, got \"3\""},
      {"data:\n  train: x.jsonl\n", "run.yaml:2: data.train: expected a list (of a section)"},
      {"data:\n  train:\n    - path: a\n    - paht: b\n",
       "run.yaml:4: data.train[1].paht: unknown field; did you mean path?"},
      {"data: {train: [{}]}\n", "data.train[0].path: required, and not given"},
      {"name: x\n", "run.yaml: model.path: required, and not given"},
      {"name: x\nname: y\n", "run.yaml:2: name: given twice, first in line 1"},
      {"name: [a]\n", "run.yaml:1: name: expected text, got a list"},
      {"- a\n", "run.yaml:1: expected a section, got a list"},
      {"? [a]\n: b\n", "run.yaml:1: expected a name as the key"},
      {"name: a\n---\nname: b\n", "more than one YAML document"},
      {"learner:\n\tsteps: 3\n", "run.yaml:2: not YAML"},
      {"seed: 1\nname: 'a\nstage: rl\n", "run.yaml:2: a quote that is not closed"},
      {"\xef\xbb\xbfname: \"a\\\"\n", "run.yaml:1: a quote that is not closed"},
      {"a: &x {b: *x}\n", "an alias cannot stand for what holds it"},
      {"name: *nowhere\n", "run.yaml:1: not YAML"},
      {"name: a\nseed: \xff\n", "run.yaml:2: not UTF-8"},
      {"name: \xed\xa0\x80\n", "run.yaml:1: not UTF-8"},
      {"\xff\xfen\0", "run.yaml:1: not UTF-8"},
  };
  for (const auto& c : kCases) EXPECT_THAT(ErrorOf(c.yaml), HasSubstr(c.error)) << c.yaml;
  EXPECT_THAT(ErrorOf(std::string_view("name: a\nseed: \0", 15)), "run.yaml:2: a NUL byte");
}

TEST(ParseYamlTest, ReportsEveryMistakeAtOnceUpToALimit) {
  EXPECT_EQ(ErrorOf("seed: x\nstage: y\n"),
            "run.yaml:1: seed: expected an integer from 0 to 18446744073709551615, got \"x\"\n"
            "run.yaml:2: stage: expected one of rl, sft, eval, reward_model, dpo, simpo, orpo, "
            "kto, rlaif, got \"y\"");
  std::string many;
  for (int i = 0; i < 25; ++i) absl::StrAppend(&many, "unknown_", i, ": 1\n");
  EXPECT_THAT(ErrorOf(many), HasSubstr("and 5 more"));
}

TEST(ParseYamlTest, HostileDocumentsAreRefusedQuickly) {
  const absl::Time start = absl::Now();
  // Nine levels of nine aliases would be 387 million nodes.
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 9; ++i) {
    absl::StrAppend(&bomb, "a", i, ": &a", i, " [");
    for (int j = 0; j < 9; ++j) absl::StrAppend(&bomb, j == 0 ? "" : ", ", "*a", i - 1);
    bomb += "]\n";
  }
  EXPECT_THAT(ErrorOf(bomb), HasSubstr("more than 100000 values"));
  EXPECT_THAT(ErrorOf(std::string(70, '[') + std::string(70, ']')),
              HasSubstr("nested deeper than 64 levels"));
  std::string dashes;
  while (dashes.size() < 500'000) dashes += "- ";
  EXPECT_THAT(ErrorOf(dashes), HasSubstr("nested deeper than 64 levels"));
  EXPECT_THAT(ErrorOf(std::string(500'000, '[')), HasSubstr("run.yaml:1: "));
  EXPECT_THAT(ErrorOf(std::string(500'000, '{')), HasSubstr("run.yaml:1: "));
  EXPECT_THAT(ErrorOf(std::string(kMaxYamlBytes + 1, ' ')), HasSubstr("at most 1048576 are read"));
  std::string keys;
  for (int i = 0; keys.size() < 900'000; ++i) absl::StrAppend(&keys, "k", i, ": 1\n");
  EXPECT_THAT(ErrorOf(keys), HasSubstr("unknown field"));
  EXPECT_LT(absl::Now() - start, absl::Seconds(30));
}

TEST(ParseYamlTest, AliasesStandForTheirAnchor) {
  v1::RunConfig config;
  ASSERT_EQ(Parse("model: {path: m}\ndata:\n  train: &files [{path: a}, {path: b}]\n"
                  "  evaluation: *files\n",
                  &config),
            absl::OkStatus());
  EXPECT_EQ(config.data().evaluation(1).path(), "b");
}

TEST(ParseYamlTest, AnyTextIsReadOrRefusedNeverFatal) {
  PhiloxStream random(7, 1);
  const std::string seed_text = absl::StrCat(
      kSmall, "data: {train: [{path: a}], evaluation: &x [{path: b}]}\n# end\nstage: \"rl\"\n");
  int accepted = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string text = seed_text;
    for (uint64_t edits = 1 + random.Below(4); edits > 0; --edits) {
      const char kBytes[] = " \n\t:,-[]{}&*!|>'\"%@`#?x0\x7f\xc3";
      text[random.Below(text.size())] = kBytes[random.Below(sizeof(kBytes) - 1)];
    }
    v1::RunConfig config;
    accepted += Parse(text, &config).ok();
  }
  EXPECT_GT(accepted, 0);
}

TEST(OverrideTest, ReplacesAddsAndAppends) {
  v1::RunConfig config;
  ASSERT_EQ(Parse(absl::StrCat(kSmall, "data:\n  train:\n    - path: a\n"), &config,
                  {"learner.optimizer.lr=2e-3", "data.train[0].path=x=y: z", "data.train[1].path=b",
                   "data.evaluation=[{path: e}, {path: f}]", "data.evaluation[1].path=g",
                   "sampling.stop=[\"\\n\"]", "sampling.stop_token_ids[0]=3", "name=007",
                   "stage=sft", "algorithm={clip_low: 0.1}", "name="}),
            absl::OkStatus());
  EXPECT_EQ(config.learner().optimizer().lr(), 2e-3f);
  EXPECT_EQ(config.learner().steps(), 7u);
  EXPECT_EQ(config.data().train(0).path(), "x=y: z");
  EXPECT_EQ(config.data().train(1).path(), "b");
  EXPECT_EQ(config.data().evaluation(1).path(), "g");
  EXPECT_EQ(config.sampling().stop(0), "\n");
  EXPECT_EQ(config.sampling().stop_token_ids(0), 3u);
  EXPECT_EQ(config.stage(), v1::STAGE_SFT);
  EXPECT_EQ(config.algorithm().clip_low(), 0.1f);
  EXPECT_EQ(config.name(), "");
}

TEST(OverrideTest, ErrorsNameTheOverride) {
  const struct {
    const char* set;
    const char* error;
  } kCases[] = {
      {"learner.steps", "--set learner.steps: expected path=value"},
      {"=3", "--set =3: expected names joined by '.'"},
      {"learner..steps=3", "expected names joined by '.'"},
      {"data.train[x].path=3", "expected names joined by '.'"},
      {"data.train[0=3", "expected names joined by '.'"},
      {"data.train[99999999999].path=3", "expected names joined by '.'"},
      {"data.train[1].path=3",
       "--set data.train[1].path=3: index 1 is past the end of a list of 0"},
      {"learner.steps.more=3",
       "--set learner.steps.more=3: more is looked for in \"7\" (run.yaml:3)"},
      {"learner[0]=3", "[0] is looked for in a section (run.yaml:3)"},
      {"learner.stps=3", "--set learner.stps=3: learner.stps: unknown field; did you mean steps?"},
      {"learner.steps=0", "--set learner.steps=0: learner.steps: must be >= 1, got 0"},
      {"learner.steps=many", "--set learner.steps=many: learner.steps: expected an integer"},
      {"data.train={", "--set data.train={: data.train: "},
      {"data.train=x", "expected a list (of a section), got \"x\""},
      {"stage=\xff", "--set: not UTF-8"},
  };
  for (const auto& c : kCases) EXPECT_THAT(ErrorOf(kSmall, {c.set}), HasSubstr(c.error)) << c.set;
}

TEST(OverrideTest, BoundsHoldForTheFinalValueOnly) {
  v1::RunConfig config;
  EXPECT_EQ(Parse("model: {path: m}\nlearner: {steps: 0}\n", &config, {"learner.steps=5"}),
            absl::OkStatus());
  EXPECT_EQ(config.learner().steps(), 5u);
}

TEST(LoadYamlTest, ReadsFilesAndSaysWhichIsMissing) {
  const std::string path = absl::StrCat(testing::TempDir(), "/config_", getpid(), ".yaml");
  ASSERT_EQ(WriteFileAtomically(path, kSmall), absl::OkStatus());
  v1::RunConfig config;
  Origins origins;
  const std::vector<std::string> sets = {"seed=3"};
  ASSERT_EQ(LoadYaml(path, sets, &config, {}, &origins), absl::OkStatus());
  EXPECT_EQ(origins["learner.optimizer.lr"], path + ":5");
  EXPECT_EQ(origins["seed"], "--set seed=3");
  EXPECT_EQ(origins.count("stage"), 0u);
  const absl::Status missing = LoadYaml(path + ".none", {}, &config);
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr(path + ".none"));
  const std::vector<std::string> only_sets = {"model.path=m"};
  EXPECT_EQ(LoadYaml("", only_sets, &config), absl::OkStatus());
}

TEST(LoadYamlTest, RequiredFieldsCanBeLimitedToSections) {
  v1::RunConfig config;
  const std::vector<std::string_view> sections = {"reward"};
  EXPECT_EQ(ParseYaml("reward: {}", "x", {}, &config, {.required_in = sections}), absl::OkStatus());
  EXPECT_THAT(std::string(ParseYaml("reward: {verifiers: [{length: {}}]}", "x", {}, &config,
                                    {.required_in = sections})
                              .message()),
              HasSubstr("reward.verifiers[0].name: required"));
}

TEST(FormatYamlTest, ReadsBackAsTheSameMessage) {
  v1::RunConfig config;
  ASSERT_EQ(Parse("model: {path: 'a b: c'}\nname: \"7\"\nseed: 18446744073709551615\n"
                  "learner: {optimizer: {lr: 0.1, epsilon: 1.1754944e-38}}\n"
                  "sampling: {stop: [\"\\n\\n\", 'it''s \"x\" \\', \"\\x01\u00e9\", null-ish, "
                  "\"null\", \"\"], stop_token_ids: [1, 2]}\n"
                  "data: {train: [{path: yes}, {path: '- x'}]}\n"
                  "evaluation: {temperature: 0.7}\n"
                  "reward:\n  verifiers:\n    - {name: a, gate: 0.1, length: {}}\n"
                  "    - {name: b, weight: -0.30000000000000004, contains: {texts: [x]}}\n",
                  &config),
            absl::OkStatus());
  const std::string text = FormatYaml(config, Secrets::kKeep);
  v1::RunConfig again;
  ASSERT_EQ(Parse(text, &again), absl::OkStatus()) << text;
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(config, again)) << text;
  EXPECT_EQ(FormatYaml(again, Secrets::kKeep), text);
  EXPECT_THAT(text, StartsWith("name: \"7\"\noutput_dir: runs\nseed: 18446744073709551615\n"));
  EXPECT_THAT(text, HasSubstr("    - name: b\n      weight: -0.30000000000000004\n"));
  EXPECT_THAT(text, HasSubstr("    lr: 0.1\n"));
}

TEST(FormatYamlTest, MapsAreSortedAndEmptySectionsShown) {
  google::protobuf::Struct value;
  (*value.mutable_fields())["b"].set_number_value(2);
  (*value.mutable_fields())["a"].mutable_struct_value();
  EXPECT_EQ(FormatYaml(value), "fields:\n  a:\n    struct_value: {}\n  b:\n    number_value: 2\n");
  google::protobuf::Struct again;
  ASSERT_EQ(ParseYaml(FormatYaml(value), "x", {}, &again), absl::OkStatus());
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(value, again));
}

TEST(FormatYamlTest, SecretsAreRedactedUnlessKept) {
  // FieldRules has no secret field of its own; the option is attached to a schema built here.
  google::protobuf::FileDescriptorProto file;
  file.set_name("secret_test.proto");
  file.set_syntax("proto3");
  auto* type = file.add_message_type();
  type->set_name("Login");
  auto* field = type->add_field();
  field->set_name("token");
  field->set_number(1);
  field->set_type(google::protobuf::FieldDescriptorProto::TYPE_STRING);
  field->set_label(google::protobuf::FieldDescriptorProto::LABEL_OPTIONAL);
  v1::FieldRules* rules = field->mutable_options()->MutableExtension(v1::rules);
  rules->set_secret(true);
  rules->set_max(4);
  google::protobuf::DescriptorPool pool(google::protobuf::DescriptorPool::generated_pool());
  const auto* built = pool.BuildFile(file);
  ASSERT_NE(built, nullptr);
  google::protobuf::DynamicMessageFactory factory;
  std::unique_ptr<google::protobuf::Message> login(
      factory.GetPrototype(built->message_type(0))->New());
  ASSERT_EQ(ParseYaml("token: abc", "x", {}, login.get()), absl::OkStatus());
  EXPECT_EQ(FormatYaml(*login), "token: \"***\"\n");
  EXPECT_EQ(FormatYaml(*login, Secrets::kKeep), "token: abc\n");
  const absl::Status too_long = ParseYaml("token: hunter2", "x", {}, login.get());
  EXPECT_THAT(std::string(too_long.message()), HasSubstr("at most 4 bytes"));
  EXPECT_THAT(std::string(too_long.message()), Not(HasSubstr("7")));
}

TEST(QuoteYamlTest, QuotesWhatCouldBeReadAsSomethingElse) {
  EXPECT_EQ(QuoteYaml("runs/a-b_c.d"), "runs/a-b_c.d");
  for (const char* text : {"", "true", "No", "12", "1e5", "a b", "~", "a:", "#a", "-"}) {
    EXPECT_EQ(QuoteYaml(text), absl::StrCat("\"", text, "\""));
  }
  EXPECT_EQ(QuoteYaml("a\"\\\n\x1f"), "\"a\\\"\\\\\\n\\x1f\"");
}

TEST(NearestNameTest, SuggestsOnlyWhatIsNear) {
  EXPECT_EQ(NearestName("optimiser", {"optimizer", "steps"}), "optimizer");
  EXPECT_EQ(NearestName("stesp", {"stop", "steps"}), "steps");
  EXPECT_EQ(NearestName("zebra", {"steps", "lr"}), std::nullopt);
}

}  // namespace
}  // namespace rollcall::config
