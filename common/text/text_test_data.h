#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace rollcall::text {

// The folder of real inputs and golden numbers, or an empty path where this machine has none.
inline std::filesystem::path TestData() {
  const char* folder = std::getenv("ROLLCALL_TEST_DATA");
  if (folder == nullptr || !std::filesystem::is_directory(folder)) return {};
  return folder;
}

inline std::string Contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A whole tokenizer of 5 characters, 5 bytes of "€" and an emoji's first, and two special tokens.
// Byte tokens are merged as Llama 2's are: a run of them that is not UTF-8 becomes one U+FFFD for
// each.
inline constexpr char kTinyTokenizer[] = R"({
  "version": "1.0", "truncation": null, "padding": null,
  "added_tokens": [
    {"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
  "normalizer": null, "pre_tokenizer": null,
  "post_processor": {"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
  "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
  "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
    "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": true, "ignore_merges": false,
    "vocab": {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "c": 4, " ": 5, "ab": 6,
              "<0xE2>": 7, "<0x82>": 8, "<0xAC>": 9, "<0xFF>": 10},
    "merges": ["a b"]}})";

}  // namespace rollcall::text
