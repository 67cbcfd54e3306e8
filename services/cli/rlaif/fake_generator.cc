#include "services/cli/rlaif/fake_generator.h"

#include <grpcpp/ext/health_check_service_server_builder_option.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace rollcall::cli::testing {
namespace {

// Ids are the characters' codes; 0 ends a completion.
std::shared_ptr<const text::Tokenizer> CharacterTokenizer() {
  nlohmann::json vocabulary = {{"<eos>", 0}};
  for (int c = 1; c < 128; ++c) vocabulary[std::string(1, static_cast<char>(c))] = c;
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
      {"normalizer", nullptr},
      {"pre_tokenizer", nullptr},
      {"post_processor", nullptr},
      {"decoder", {{"type", "Fuse"}}},
      {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", nlohmann::json::array()}}}};
  auto loaded = text::Tokenizer::FromJson(tokenizer.dump());
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return *loaded;
}

void AddTokens(const std::string& text, v1::SampleDelta& delta) {
  for (const char c : text) delta.add_token_ids(static_cast<uint8_t>(c));
}

}  // namespace

FakeGenerator::FakeGenerator(Says says, Thinks thinks)
    : says_(std::move(says)), thinks_(std::move(thinks)), tokenizer_(CharacterTokenizer()) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
}

FakeGenerator::~FakeGenerator() { server_->Shutdown(); }

std::shared_ptr<grpc::Channel> FakeGenerator::channel() { return server_->InProcessChannel({}); }

std::vector<std::string> FakeGenerator::prompts() const {
  absl::MutexLock lock(&mutex_);
  return prompts_;
}

std::string FakeGenerator::TextOf(const google::protobuf::RepeatedField<uint32_t>& ids) const {
  std::string text;
  for (const uint32_t id : ids) text += static_cast<char>(id);
  return text;
}

void FakeGenerator::Judge(const v1::GenerateRequest& request, const std::string& prompt,
                          v1::GenerateResponse& response) const {
  if (request.sampling().prompt_logprobs()) {
    // Of every character but the first, given those before it.
    v1::PromptLogprobs& scores = *response.mutable_prompt_logprobs();
    scores.set_offset(1);
    for (size_t i = 1; i < prompt.size(); ++i) {
      const std::map<char, float> next = thinks_(prompt.substr(0, i));
      const auto found = next.find(prompt[i]);
      scores.add_logprobs(found == next.end() ? -20.0F : found->second);
    }
  }
  v1::SampleDelta& delta = *response.add_deltas();
  delta.add_token_ids('x');
  std::vector<std::pair<float, char>> likely;
  for (const auto& [c, logprob] : thinks_(prompt)) likely.emplace_back(-logprob, c);
  std::sort(likely.begin(), likely.end());
  v1::TokenAlternatives& alternatives = *delta.add_alternatives();
  const size_t shown = std::min<size_t>({likely.size(), shown_, request.sampling().top_logprobs()});
  for (size_t i = 0; i < shown; ++i) {
    alternatives.add_token_ids(static_cast<uint8_t>(likely[i].second));
    alternatives.add_logprobs(-likely[i].first);
  }
  v1::SampleEnd& end = *response.add_ends();
  end.set_num_tokens(1);
  end.set_finish_reason(v1::FINISH_REASON_LENGTH);
}

grpc::Status FakeGenerator::Generate(grpc::ServerContext*, const v1::GenerateRequest* request,
                                     grpc::ServerWriter<v1::GenerateResponse>* writer) {
  ++calls_;
  const std::string prompt = TextOf(request->prompt_token_ids());
  {
    absl::MutexLock lock(&mutex_);
    prompts_.push_back(prompt);
  }
  v1::GenerateResponse response;
  if (request->sampling().temperature() == 0 && thinks_) {
    Judge(*request, prompt, response);
    writer->Write(response);
    return grpc::Status::OK;
  }
  const bool fails = failures_ > 0 && failures_-- > 0;
  for (uint32_t i = 0; i < request->num_samples(); ++i) {
    std::string text = says_(prompt, i);
    const bool cut_off = !text.empty() && text.back() == '$';
    if (cut_off) text.pop_back();
    v1::SampleDelta& delta = *response.add_deltas();
    delta.set_index(i);
    AddTokens(text, delta);
    if (!cut_off) delta.add_token_ids(0);
    if (fails) continue;
    v1::SampleEnd& end = *response.add_ends();
    end.set_index(i);
    end.set_num_tokens(static_cast<uint32_t>(delta.token_ids_size()));
    end.set_finish_reason(cut_off ? v1::FINISH_REASON_LENGTH : v1::FINISH_REASON_STOP_TOKEN);
  }
  writer->Write(response);
  return fails ? grpc::Status(failure_, "the generator went away") : grpc::Status::OK;
}

}  // namespace rollcall::cli::testing
