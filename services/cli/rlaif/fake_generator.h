#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "common/text/tokenizer.h"
#include "rollcall/v1/generator.grpc.pb.h"

namespace rollcall::cli::testing {

// A generator for tests that says what a function of the prompt's text says, character by character, in this process.
class FakeGenerator final : public v1::Generator::Service {
 public:
  // What follows a prompt in sample `index`; '$' at its end: it was cut off.
  using Says = std::function<std::string(const std::string& prompt, uint32_t index)>;
  // Log-probs of the next character.
  using Thinks = std::function<std::map<char, float>(const std::string& prompt)>;

  explicit FakeGenerator(Says says, Thinks thinks = {});
  ~FakeGenerator() override;

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override;

  std::shared_ptr<grpc::Channel> channel();
  const std::shared_ptr<const text::Tokenizer>& tokenizer() const { return tokenizer_; }

  // The next so many calls end like this, after half of their answer.
  void FailNext(int calls, grpc::StatusCode code) {
    failure_ = code;
    failures_ = calls;
  }
  // How many alternatives an answer holds at most.
  void ShowAtMost(size_t alternatives) { shown_ = alternatives; }
  int calls() const { return calls_; }
  // All prompts so far, in any order.
  std::vector<std::string> prompts() const;

 private:
  std::string TextOf(const google::protobuf::RepeatedField<uint32_t>& ids) const;
  void Judge(const v1::GenerateRequest& request, const std::string& prompt,
             v1::GenerateResponse& response) const;

  const Says says_;
  const Thinks thinks_;
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::atomic<int> calls_ = 0, failures_ = 0;
  std::atomic<grpc::StatusCode> failure_ = grpc::StatusCode::UNAVAILABLE;
  std::atomic<size_t> shown_ = 64;
  mutable absl::Mutex mutex_;
  std::vector<std::string> prompts_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace rollcall::cli::testing
