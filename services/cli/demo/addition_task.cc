#include "services/cli/demo/addition_task.h"

#include <zlib.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/file.h"
#include "common/base/philox.h"
#include "common/base/status.h"

namespace rollcall::cli {
namespace {

constexpr int kColumns = 3;
constexpr std::string_view kCharacters = "0123456789+=, ";

// Streams of the seed, one per file.
enum Stream : uint64_t {
  kDemonstrations = 1,
  kTrainingPrompts = 2,
  kHeldOutPrompts = 3,
  kValidationPrompts = 4
};

AdditionProblem Draw(PhiloxStream& random, Split split) {
  while (true) {
    AdditionProblem problem;
    problem.left = 100 + static_cast<int>(random.Below(900));
    problem.right = 100 + static_cast<int>(random.Below(900));
    if (SplitOf(problem) == split) return problem;
  }
}

void AppendPromptRow(std::string& lines, const AdditionProblem& problem) {
  absl::StrAppendFormat(&lines, "{\"prompt\": \"%s\", \"answer\": \"%s\"}\n", problem.Prompt(),
                        problem.Answer());
}

std::string DistinctPrompts(uint64_t seed, Stream stream, Split split, size_t count) {
  PhiloxStream random(seed, stream);
  std::set<std::pair<int, int>> seen;
  std::string lines;
  while (seen.size() < count) {
    const AdditionProblem problem = Draw(random, split);
    if (seen.emplace(problem.left, problem.right).second) AppendPromptRow(lines, problem);
  }
  return lines;
}

}  // namespace

std::string AdditionProblem::Prompt() const { return absl::StrCat(left, "+", right, "="); }

std::string AdditionProblem::Answer() const { return absl::StrCat(left + right); }

std::string AdditionProblem::Demonstration(bool carries) const {
  std::string text;
  int a = left;
  int b = right;
  int carry = 0;
  int result = 0;
  int place = 1;
  for (int column = 0; column < kColumns; ++column) {
    const int sum = a % 10 + b % 10 + carry;
    absl::StrAppend(&text, column == 0 ? "" : ",", a % 10, "+", b % 10, carry ? "+1" : "", "=",
                    sum);
    const bool last = column + 1 == kColumns;
    result += (last ? sum : sum % 10) * place;
    carry = carries && sum >= 10 ? 1 : 0;
    place *= 10;
    a /= 10;
    b /= 10;
  }
  absl::StrAppend(&text, " =", result);
  return text;
}

Split SplitOf(const AdditionProblem& problem) {
  const std::string prompt = problem.Prompt();
  const uLong crc =
      crc32(0L, reinterpret_cast<const Bytef*>(prompt.data()), static_cast<uInt>(prompt.size()));
  switch (crc % 10) {
    case 0:
      return Split::kHeldOut;
    case 1:
      return Split::kValidation;
    default:
      return Split::kTraining;
  }
}

absl::Status WriteAdditionData(const std::string& folder, const AdditionDataOptions& options) {
  ROLLCALL_RETURN_IF_ERROR(MakeDirectories(folder));
  PhiloxStream demonstrations(options.seed, kDemonstrations);
  std::string sft;
  for (size_t i = 0; i < options.demonstrations; ++i) {
    const AdditionProblem problem = Draw(demonstrations, Split::kTraining);
    const bool carries = demonstrations.Uniform() >= options.slip_share;
    absl::StrAppendFormat(&sft, "{\"prompt\": \"%s\", \"completion\": \"%s\"}\n", problem.Prompt(),
                          problem.Demonstration(carries));
  }
  PhiloxStream prompts(options.seed, kTrainingPrompts);
  std::string train;
  for (size_t i = 0; i < options.prompts; ++i)
    AppendPromptRow(train, Draw(prompts, Split::kTraining));

  ROLLCALL_RETURN_IF_ERROR(WriteFileAtomically(folder + "/sft.jsonl", sft));
  ROLLCALL_RETURN_IF_ERROR(WriteFileAtomically(folder + "/train.jsonl", train));
  ROLLCALL_RETURN_IF_ERROR(WriteFileAtomically(
      folder + "/held_out.jsonl",
      DistinctPrompts(options.seed, kHeldOutPrompts, Split::kHeldOut, options.held_out)));
  return WriteFileAtomically(
      folder + "/validation.jsonl",
      DistinctPrompts(options.seed, kValidationPrompts, Split::kValidation, options.held_out));
}

absl::Status WriteAdditionTokenizer(const std::string& folder) {
  ROLLCALL_RETURN_IF_ERROR(MakeDirectories(folder));
  using Json = nlohmann::ordered_json;
  Json vocabulary = {{"<pad>", 0}, {"<eos>", 1}};
  for (char c : kCharacters) vocabulary[std::string(1, c)] = vocabulary.size();
  const auto special = [](int id, const char* text) {
    return Json{{"id", id},        {"content", text},     {"single_word", false}, {"lstrip", false},
                {"rstrip", false}, {"normalized", false}, {"special", true}};
  };
  // A byte-pair model without merges splits a text into its characters.
  const Json tokenizer = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", Json::array({special(0, "<pad>"), special(1, "<eos>")})},
      {"normalizer", nullptr},
      {"pre_tokenizer", nullptr},
      {"post_processor", nullptr},
      {"decoder", {{"type", "Fuse"}}},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"ignore_merges", false},
        {"vocab", vocabulary},
        {"merges", Json::array()}}},
  };
  const Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                       {"pad_token", "<pad>"},
                       {"eos_token", "<eos>"},
                       {"model_max_length", 64},
                       {"clean_up_tokenization_spaces", false}};
  const Json generation = {{"eos_token_id", 1}, {"pad_token_id", 0}};
  ROLLCALL_RETURN_IF_ERROR(
      WriteFileAtomically(folder + "/tokenizer.json", tokenizer.dump(1) + "\n"));
  ROLLCALL_RETURN_IF_ERROR(
      WriteFileAtomically(folder + "/tokenizer_config.json", config.dump(1) + "\n"));
  return WriteFileAtomically(folder + "/generation_config.json", generation.dump(1) + "\n");
}

}  // namespace rollcall::cli
