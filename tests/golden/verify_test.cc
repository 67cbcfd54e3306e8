// `rollcall verify` on the golden numbers of the reference implementations, and on copies of them
// with one thing wrong: a comparison that cannot fail proves nothing.
#include "services/cli/verify/verify.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <cstdio>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "common/base/file.h"
#include "common/checkpoint/hf_writer.h"
#include "common/checkpoint/parameters.h"

namespace rollcall::verify {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Outcome {
  int exit_code = 0;
  std::string out;
  std::string errors;
};

Outcome Verify(const std::vector<std::string>& arguments) {
  std::ostringstream out, errors;
  const int exit_code = RunVerify(arguments, out, errors);
  return {exit_code, out.str(), errors.str()};
}

// "case/quantity" of all findings with this outcome.
std::set<std::string> Findings(const Outcome& outcome, const std::string& kind) {
  std::set<std::string> names;
  const Json report = Json::parse(outcome.out, nullptr, false);
  EXPECT_TRUE(report.is_object()) << outcome.out << outcome.errors;
  for (const Json& finding : report.value("findings", Json::array())) {
    if (finding.at("outcome") == kind) {
      names.insert(finding.at("case").get<std::string>() + "/" +
                   finding.at("quantity").get<std::string>());
    }
  }
  return names;
}

class GoldenTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* const data = getenv("ROLLCALL_TEST_DATA");
    golden_ = std::string(data == nullptr ? "" : data) + "/golden";
    if (!fs::exists(golden_ + "/models")) GTEST_SKIP() << "no golden numbers at " << golden_;
  }

  std::string golden_;
};

const std::vector<std::string> kLanguageQuantities = {"packed: logits",
                                                      "packed: logprobs t=1.0",
                                                      "packed: logprobs t=0.7",
                                                      "packed: entropy",
                                                      "packed: mean_ce",
                                                      "packed: token_mean_ce",
                                                      "packed: greedy ids",
                                                      "cached: logits",
                                                      "cached: logprobs t=1.0",
                                                      "cached: logprobs t=0.7",
                                                      "cached: entropy",
                                                      "cached: greedy ids",
                                                      "float32 logprobs, packed = cached",
                                                      "bfloat16 logprobs, packed = cached",
                                                      "gradient l2",
                                                      "gradient entries",
                                                      "gradient norm",
                                                      "AdamW losses, 5 steps",
                                                      "AdamW gradient norms",
                                                      "params_after l2",
                                                      "params_after entries"};
const std::vector<std::string> kValueQuantities = {"packed: values",
                                                   "packed: right-padded batch",
                                                   "cached: values",
                                                   "cached: right-padded batch",
                                                   "float32 values, packed = cached",
                                                   "bfloat16 values, packed = cached",
                                                   "gradient l2",
                                                   "gradient entries"};

TEST_F(GoldenTest, EveryModelAgreesOnBothPaths) {
  const Outcome outcome = Verify({golden_, "--suite", "models", "--json"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.out;
  EXPECT_THAT(Findings(outcome, "not_supported"), IsEmpty());
  const std::set<std::string> passed = Findings(outcome, "pass");
  for (const auto& entry : fs::directory_iterator(golden_ + "/models")) {
    if (!entry.is_directory()) continue;
    const std::string name = entry.path().filename().string();
    const Json expected = Json::parse(*ReadFile(entry.path().string() + ".expected.json"));
    const std::string head = expected.value("head", "causal_lm");
    for (const std::string& quantity :
         head == "causal_lm" ? kLanguageQuantities : kValueQuantities) {
      EXPECT_THAT(passed, Contains(name + "/" + quantity));
    }
    if (head != "reward") continue;
    EXPECT_THAT(passed, Contains(name + "/packed: rewards"));
    EXPECT_THAT(passed, Contains(name + "/cached: rewards"));
  }
  EXPECT_THAT(passed, Contains("llama_rope3/gradient, every entry"));
}

TEST_F(GoldenTest, GenerationAgrees) {
  const Outcome outcome = Verify({golden_, "--suite", "generation", "--json"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.out;
  const std::set<std::string> passed = Findings(outcome, "pass");
  for (const char* quantity :
       {"stories260k/packed: logprobs t=1.0", "stories260k/packed: logprobs t=0.7",
        "stories260k/packed: entropy", "stories260k/packed: greedy ids",
        "stories260k/cached: logprobs t=1.0", "stories260k/cached: greedy ids",
        "stories260k/cached: greedy text", "filters/top_k: kept tokens",
        "filters/temperature+top_k+top_p: probabilities", "filters/repetition_penalty: kept tokens",
        "filters/repetition_penalty: probabilities", "filters/no_repeat_ngram_size: kept tokens",
        "filters/no_repeat_ngram_size: probabilities",
        "filters/min_p+repetition_penalty+temperature+top_k+top_p: probabilities"}) {
    EXPECT_THAT(passed, Contains(quantity));
  }
  EXPECT_THAT(Findings(outcome, "not_supported"), ::testing::IsEmpty());
}

TEST_F(GoldenTest, TextAgrees) {
  const Outcome outcome = Verify({golden_, "--suite", "text", "--json"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.out;
  const std::set<std::string> passed = Findings(outcome, "pass");
  for (const auto& entry : fs::directory_iterator(golden_ + "/text/templates")) {
    if (entry.path().extension() != ".jinja") continue;
    EXPECT_THAT(passed, Contains(entry.path().stem().string() + "/renders"));
  }
  for (const auto& entry : fs::directory_iterator(golden_ + "/text/tokenizers")) {
    if (!entry.is_directory()) continue;
    for (const char* quantity : {"ids", "ids with special", "offsets", "decoded",
                                 "decoded, special skipped", "stream", "stream, special skipped"}) {
      EXPECT_THAT(passed, Contains(entry.path().filename().string() + "/" + quantity));
    }
  }
  EXPECT_THAT(passed, Contains("qwen3-training/generation spans"));
  EXPECT_THAT(passed, Contains("gemma-2/errors"));
}

TEST_F(GoldenTest, TextThatDiffersIsFound) {
  const std::string root = ::testing::TempDir() + "/verify_text";
  fs::remove_all(root);
  ASSERT_TRUE(MakeDirectories(root + "/text/templates").ok());
  ASSERT_TRUE(MakeDirectories(root + "/text/tokenizers/stories260k").ok());
  const auto carry = [&](const std::string& file, const std::function<void(Json&)>& edit = {}) {
    std::string bytes = ReadFile(golden_ + "/text/" + file).value();
    if (edit) {
      Json json = Json::parse(bytes);
      edit(json);
      bytes = json.dump();
    }
    ASSERT_TRUE(WriteFileAtomically(root + "/text/" + file, bytes).ok());
  };
  for (const char* file :
       {"templates/conversations.json", "templates/gemma-2.jinja", "templates/qwen3-training.jinja",
        "tokenizers/strings.json", "tokenizers/stories260k/tokenizer.json"}) {
    carry(file);
  }
  carry("templates/gemma-2.json", [](Json& json) {
    bool rendered = false, failed = false;
    for (Json& render : json["renders"]) {
      if (render.contains("error") && !failed) {
        failed = true;
        render["expected"] = "text";
        render.erase("error");
      } else if (render.contains("expected") && !rendered) {
        rendered = true;
        render["error"] = "no chat";
      }
    }
    ASSERT_TRUE(rendered && failed);
  });
  carry("templates/qwen3-training.json", [](Json& json) {
    for (Json& render : json["renders"]) {
      if (!render.contains("generation_spans") || render["generation_spans"].empty()) continue;
      render["generation_spans"][0][1] = render["generation_spans"][0][1].get<int>() + 1;
      return;
    }
    FAIL() << "no spans";
  });
  // Each quantity wrong in one string of its own.
  std::istringstream in(ReadFile(golden_ + "/text/tokenizers/stories260k/expected.jsonl").value());
  std::string spoilt;
  size_t number = 0;
  for (std::string line; std::getline(in, line); ++number) {
    Json json = Json::parse(line);
    if (number == 20) json["offsets"][0][1] = json["offsets"][0][1].get<int>() + 1;
    if (number == 21) json["decoded"] = json["decoded"].get<std::string>() + "x";
    if (number == 22) json["stream"].push_back("x");
    if (number == 23) json["ids_with_special"].push_back(3);
    spoilt += json.dump() + "\n";
  }
  ASSERT_TRUE(
      WriteFileAtomically(root + "/text/tokenizers/stories260k/expected.jsonl", spoilt).ok());
  const Outcome outcome = Verify({root, "--suite", "text", "--json"});
  EXPECT_EQ(outcome.exit_code, 1) << outcome.errors;
  EXPECT_THAT(Findings(outcome, "fail"),
              ::testing::IsSupersetOf({"gemma-2/errors", "gemma-2/renders",
                                       "qwen3-training/generation spans", "stories260k/offsets",
                                       "stories260k/decoded", "stories260k/stream",
                                       "stories260k/ids with special"}));
  EXPECT_THAT(Findings(outcome, "pass"),
              AllOf(Contains("qwen3-training/renders"), Contains("stories260k/ids")));
}

TEST_F(GoldenTest, FoldersWithoutASuiteAreListed) {
  const std::string root = ::testing::TempDir() + "/verify_other";
  fs::remove_all(root);
  ASSERT_TRUE(MakeDirectories(root + "/later").ok());
  const Outcome outcome = Verify({root});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.out,
              AllOf(HasSubstr("later"), HasSubstr("not supported"), HasSubstr("1 not supported")));
}

// One small case of the models suite in a folder of its own, to spoil.
class TamperedTest : public GoldenTest {
 protected:
  void SetUp() override {
    GoldenTest::SetUp();
    if (IsSkipped()) return;
    root_ = ::testing::TempDir() + "/verify_tampered";
    fs::remove_all(root_);
    ASSERT_TRUE(MakeDirectories(root_ + "/models").ok());
    for (const char* name : {"/models/llama_tied", "/models/llama_tied.expected.json",
                             "/models/llama_tied.expected.safetensors"}) {
      fs::copy(golden_ + name, root_ + name, fs::copy_options::recursive);
    }
    // The originals may be read-only.
    for (const auto& entry : fs::recursive_directory_iterator(root_)) {
      fs::permissions(entry.path(), fs::perms::owner_all, fs::perm_options::add);
    }
  }

  void EditJson(const std::function<void(Json&)>& edit) {
    const std::string path = root_ + "/models/llama_tied.expected.json";
    Json json = Json::parse(ReadFile(path).value());
    edit(json);
    ASSERT_TRUE(WriteFileAtomically(path, json.dump()).ok());
  }
  void EditTensors(const std::string& file,
                   const std::function<void(std::map<std::string, at::Tensor>&)>& edit) {
    const std::string path = root_ + "/models/" + file;
    auto tensors = checkpoint::LoadTensors(path).value();
    edit(tensors);
    std::vector<tensor::NamedTensor> named;
    for (const auto& [name, value] : tensors) named.push_back({name, value});
    ASSERT_TRUE(checkpoint::SaveTensors(path, named).ok());
  }
  std::set<std::string> Failures() {
    const Outcome outcome = Verify({root_, "--suite", "models", "--json"});
    EXPECT_EQ(outcome.exit_code, 1) << outcome.out;
    return Findings(outcome, "fail");
  }

  std::string root_;
};

TEST_F(TamperedTest, TheUntouchedCopyPasses) {
  EXPECT_EQ(Verify({root_, "--suite", "models"}).exit_code, 0);
}

TEST_F(TamperedTest, OneWrongLogitIsFoundOnBothPathsAndNowhereElse) {
  EditTensors("llama_tied.expected.safetensors",
              [](auto& tensors) { tensors.at("seq2.logits")[99][255].add_(2e-4); });
  EXPECT_THAT(Failures(),
              ::testing::ElementsAre("llama_tied/cached: logits", "llama_tied/packed: logits"));
}

TEST_F(TamperedTest, OneWrongGreedyIdIsFound) {
  EditTensors("llama_tied.expected.safetensors", [](auto& tensors) {
    at::Tensor id = tensors.at("seq0.greedy")[23];
    id.copy_(id.eq(7).to(at::kLong).mul(-1).add(8));
  });
  EXPECT_THAT(Failures(), AllOf(Contains("llama_tied/cached: greedy ids"),
                                Contains("llama_tied/packed: greedy ids")));
}

TEST_F(TamperedTest, NaNsAndMissingNumbersNeverPass) {
  EditTensors("llama_tied.expected.safetensors", [](auto& tensors) {
    tensors.at("seq1.entropy_t1.0")[3].fill_(std::nan(""));
    tensors.erase("seq1.bf16_logprobs_t1.0");
  });
  EditJson([](Json& json) {
    json.erase("token_mean_ce");
    json["seq1"].erase("mean_ce");
    json["adamw"]["steps"][2].erase("grad_norm_before_clip");
    json["adamw"]["steps"][3].erase("loss_before");
  });
  EXPECT_THAT(
      Failures(),
      AllOf(Contains("llama_tied/packed: entropy"), Contains("llama_tied/packed: token_mean_ce"),
            Contains("llama_tied/packed: mean_ce"), Contains("llama_tied/AdamW gradient norms"),
            Contains("llama_tied/AdamW losses, 5 steps")));
}

TEST_F(TamperedTest, WrongGradientsAndParametersAreFound) {
  EditJson([](Json& json) {
    Json& gradient = json["grads"]["model.layers.1.self_attn.k_proj.weight"]["sampled_value"][5];
    gradient = gradient.get<double>() * 1.01 + 1e-5;
    json["grads"]["model.norm.weight"]["l2"] =
        json["grads"]["model.norm.weight"]["l2"].get<double>() * 1.001;
    for (Json& value : json["adamw"]["params_after"]["model.norm.weight"]["sampled_value"]) {
      value = value.get<double>() + 1e-4;
    }
  });
  EXPECT_THAT(Failures(),
              AllOf(Contains("llama_tied/gradient entries"), Contains("llama_tied/gradient l2"),
                    Contains("llama_tied/params_after entries")));
}

TEST_F(TamperedTest, OtherWeightsAreFound) {
  EditTensors("llama_tied/model-00002-of-00005.safetensors",
              [](auto& tensors) { tensors.begin()->second.mul_(1.01); });
  EXPECT_THAT(Failures(), AllOf(Contains("llama_tied/packed: logits"),
                                Contains("llama_tied/cached: logprobs t=1.0"),
                                Contains("llama_tied/gradient l2")));
}

TEST_F(TamperedTest, CasesThatCannotBeReadFail) {
  fs::remove(root_ + "/models/llama_tied/model-00002-of-00005.safetensors");
  EXPECT_THAT(Failures(), ::testing::ElementsAre("llama_tied/case"));
  ASSERT_TRUE(WriteFileAtomically(root_ + "/models/llama_tied.expected.json", "{").ok());
  EXPECT_THAT(Failures(), ::testing::ElementsAre("llama_tied/case"));
}

TEST_F(GoldenTest, AWrongSamplingFilterIsFound) {
  const std::string root = ::testing::TempDir() + "/verify_filters";
  fs::remove_all(root);
  ASSERT_TRUE(MakeDirectories(root + "/generation").ok());
  Json filters = Json::parse(ReadFile(golden_ + "/generation/filters.json").value());
  for (Json& filter_case : filters["cases"]) {
    if (filter_case["name"] == "story_a/top_k=5") filter_case["kept"] = {264, 361, 420, 428};
  }
  ASSERT_TRUE(WriteFileAtomically(root + "/generation/filters.json", filters.dump()).ok());
  fs::copy(golden_ + "/generation/filters.safetensors", root + "/generation/filters.safetensors");
  const Outcome outcome = Verify({root, "--suite", "generation", "--json"});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(Findings(outcome, "fail"), ::testing::ElementsAre("filters/top_k: kept tokens"));
}

TEST(VerifyUsageTest, WrongCallsExitWithTwoAndSayWhy) {
  const std::string empty = ::testing::TempDir() + "/verify_empty";
  ASSERT_TRUE(MakeDirectories(empty).ok());
  EXPECT_EQ(Verify({}).exit_code, 2);
  EXPECT_EQ(Verify({empty + "/absent"}).exit_code, 2);
  const Outcome nothing = Verify({empty});
  EXPECT_EQ(nothing.exit_code, 2);
  EXPECT_THAT(nothing.errors, HasSubstr("holds no folder of golden numbers"));
  const Outcome unknown = Verify({empty, "--suite", "poems"});
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_THAT(unknown.errors, HasSubstr("--suite poems: no such suite"));
  EXPECT_EQ(Verify({empty, "--suite", "models"}).exit_code, 2);
  EXPECT_EQ(Verify({empty, "--device", "tpu"}).exit_code, 2);
  const Outcome help = Verify({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_THAT(help.out, HasSubstr("--suite"));
}

TEST_F(GoldenTest, TheBinaryRunsIt) {
  const char* const binaries = getenv("ROLLCALL_BIN_DIR");
  ASSERT_NE(binaries, nullptr);
  const std::string command =
      std::string(binaries) + "/rollcall-model verify '" + golden_ + "' --suite generation 2>&1";
  FILE* const pipe = popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string out(1 << 16, '\0');
  out.resize(fread(out.data(), 1, out.size(), pipe));
  const int status = pclose(pipe);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << out;
  EXPECT_THAT(out,
              AllOf(HasSubstr("largest error"), HasSubstr("stories260k"), HasSubstr(" 0 failed")));
}

}  // namespace
}  // namespace rollcall::verify
