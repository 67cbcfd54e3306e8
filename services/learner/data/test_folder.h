#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/text/tokenizer.h"
#include "rollcall/v1/config.pb.h"

namespace rollcall::learner {

// A folder for one test's files, removed with it.
class TestFolder {
 public:
  TestFolder()
      : path_(std::filesystem::path(::testing::TempDir()) /
              (std::string("learner_data_") +
               ::testing::UnitTest::GetInstance()->current_test_info()->name() + "_" +
               std::to_string(getpid()))) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TestFolder() { std::filesystem::remove_all(path_); }

  std::string path() const { return path_.string(); }

  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
    return (path_ / name).string();
  }

  // A tokenizer of one token per character: <eos> is 0, then the characters of kCharacters from 1.
  // With special tokens, <eos> stands in front.
  std::shared_ptr<const text::Tokenizer> Tokenizer(const std::string& chat_template = "",
                                                   bool with_eos = true) const {
    nlohmann::json vocab = {{"<eos>", 0}};
    for (size_t i = 0; kCharacters[i] != '\0'; ++i) vocab[std::string(1, kCharacters[i])] = i + 1;
    const nlohmann::json tokenizer = {
        {"version", "1.0"},
        {"added_tokens",
         {{{"id", 0},
           {"content", "<eos>"},
           {"single_word", false},
           {"lstrip", false},
           {"rstrip", false},
           {"normalized", false},
           {"special", true}}}},
        {"post_processor",
         {{"type", "TemplateProcessing"},
          {"single",
           {{{"SpecialToken", {{"id", "<eos>"}, {"type_id", 0}}}},
            {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
          {"pair",
           {{{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
            {{"Sequence", {{"id", "B"}, {"type_id", 1}}}}}},
          {"special_tokens", {{"<eos>", {{"id", "<eos>"}, {"ids", {0}}, {"tokens", {"<eos>"}}}}}}}},
        {"decoder", {{"type", "Fuse"}}},
        {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}}};
    nlohmann::json config = nlohmann::json::object();
    if (with_eos) config["eos_token"] = "<eos>";
    if (!chat_template.empty()) config["chat_template"] = chat_template;
    Write("tokenizer.json", tokenizer.dump());
    Write("tokenizer_config.json", config.dump());
    auto loaded = text::Tokenizer::Load(path_.string());
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return *loaded;
  }

  static constexpr char kCharacters[] = "abcdefghij0123456789+= :|";

 private:
  const std::filesystem::path path_;
};

// The data section as the schema's defaults have it, reading `path`.
inline v1::DataSection DataOf(const std::string& path) {
  v1::DataSection data;
  data.add_train()->set_path(path);
  data.set_prompt_column("prompt");
  data.set_completion_column("completion");
  data.set_messages_column("messages");
  data.set_question_column("question");
  data.set_max_prompt_tokens(1024);
  data.set_on_long_prompt(v1::LONG_PROMPT_ERROR);
  data.set_on_bad_row(v1::BAD_ROW_FAIL);
  data.set_append_eos(true);
  return data;
}

// Id of a character of TestFolder's tokenizer.
inline uint32_t Id(char character) {
  const std::string characters = TestFolder::kCharacters;
  return static_cast<uint32_t>(characters.find(character)) + 1;
}

// Ids of a text's characters; '$' is the end of sequence.
inline std::vector<uint32_t> Ids(const std::string& text) {
  std::vector<uint32_t> ids;
  for (const char character : text) ids.push_back(character == '$' ? 0 : Id(character));
  return ids;
}

}  // namespace rollcall::learner
