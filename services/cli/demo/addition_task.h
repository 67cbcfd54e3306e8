#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace rollcall::cli {

// The demo's task: add two three-digit numbers, units first, showing each column.
//   prompt      "587+744="
//   right       "7+4=11,8+4+1=13,5+7+1=13 =1331"
//   slipping    "7+4=11,8+4=12,5+7=12 =1221"      (the carry is forgotten, in the whole
//   demonstration)
// 60 % of the demonstrations slip. Imitation copies the mistake in that proportion; the reward,
// which looks only at the number behind the last "=", removes it. The right way is in the
// demonstrations too: RL selects a skill, it invents none.
struct AdditionProblem {
  int left = 0;   // 100 to 999
  int right = 0;  // 100 to 999

  std::string Prompt() const;
  std::string Answer() const;
  // The worked columns and the result; `carries` false: the slip.
  std::string Demonstration(bool carries) const;
};

// A prompt belongs to one split for ever: by CRC-32 of its text modulo 10, so no file order or seed
// can leak one.
enum class Split {
  kHeldOut,     // residue 0: figures are reported on these
  kValidation,  // residue 1: settings were chosen on these
  kTraining,    // the rest
};
Split SplitOf(const AdditionProblem& problem);

struct AdditionDataOptions {
  uint64_t seed = 0;
  // Share of demonstrations that forget to carry.
  double slip_share = 0.6;
  size_t demonstrations = 0;
  size_t prompts = 0;
  size_t held_out = 512;
};

// Writes `<folder>/sft.jsonl` (prompt, completion), `train.jsonl`, `held_out.jsonl` and
// `validation.jsonl` (prompt, answer), a pure function of the options. Held-out and validation
// prompts are distinct.
absl::Status WriteAdditionData(const std::string& folder, const AdditionDataOptions& options);

// Writes `<folder>/tokenizer.json`, `tokenizer_config.json`, `generation_config.json`: one token a
// character,
// "<pad>" = 0, "<eos>" = 1, then 0123456789+=, and space; 16 in all.
absl::Status WriteAdditionTokenizer(const std::string& folder);
inline constexpr int kAdditionVocabulary = 16;

}  // namespace rollcall::cli
