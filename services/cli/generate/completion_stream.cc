#include "services/cli/generate/completion_stream.h"

#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "common/rpc/status_conversion.h"
#include "rollcall/v1/generator.grpc.pb.h"

namespace rollcall::cli {
namespace {

using Json = nlohmann::ordered_json;

class Printer {
 public:
  explicit Printer(const GenerateFlags& flags) : flags_(flags) {}

  void Print(const v1::GenerateResponse& response) {
    for (const v1::SampleDelta& delta : response.deltas()) {
      Sample& sample = samples_[delta.index()];
      sample.text += delta.text();
      sample.token_ids.insert(sample.token_ids.end(), delta.token_ids().begin(),
                              delta.token_ids().end());
      for (const float logprob : delta.logprobs()) sample.logprob += logprob;
      for (const v1::TokenAlternatives& alternatives : delta.alternatives()) {
        sample.alternatives.push_back(Pairs(alternatives));
      }
      if (streaming()) std::fputs(delta.text().c_str(), stdout);
    }
    for (const v1::SampleEnd& end : response.ends()) Finish(end);
    std::fflush(stdout);
  }

  std::string TakeFirst() { return std::move(samples_[0].text); }

 private:
  struct Sample {
    std::string text;
    std::vector<uint32_t> token_ids;
    double logprob = 0;
    Json alternatives = Json::array();
  };

  // [[token, log-prob], …], likeliest first.
  static Json Pairs(const v1::TokenAlternatives& alternatives) {
    Json pairs = Json::array();
    for (int i = 0; i < alternatives.token_ids_size(); ++i) {
      pairs.push_back({alternatives.token_ids(i), alternatives.logprobs(i)});
    }
    return pairs;
  }

  bool streaming() const { return flags_.samples == 1 && !flags_.json; }

  void Finish(const v1::SampleEnd& end) {
    const Sample& sample = samples_[end.index()];
    if (streaming()) {
      std::printf("\n");
      return;
    }
    if (!flags_.json) {
      std::printf("--- %u\n%s\n", end.index(), sample.text.c_str());
      return;
    }
    Json line = {{"index", end.index()},
                 {"text", sample.text},
                 {"token_ids", sample.token_ids},
                 {"logprob", sample.logprob},
                 {"finish_reason", v1::FinishReason_Name(end.finish_reason())}};
    if (flags_.top_logprobs > 0) line["top_logprobs"] = sample.alternatives;
    std::printf("%s\n", line.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
  }

  const GenerateFlags& flags_;
  std::map<uint32_t, Sample> samples_;
};

}  // namespace

absl::StatusOr<std::string> PrintCompletions(const std::shared_ptr<grpc::Channel>& channel,
                                             const v1::GenerateRequest& request,
                                             const GenerateFlags& flags, Shutdown& shutdown) {
  const auto stub = v1::Generator::NewStub(channel);
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, request);
  Printer printer(flags);
  for (v1::GenerateResponse response; reader->Read(&response);) {
    printer.Print(response);
    if (shutdown.requested()) context.TryCancel();
  }
  const grpc::Status status = reader->Finish();
  if (shutdown.requested()) return absl::CancelledError("interrupted");
  if (!status.ok()) return rpc::FromGrpc(status);
  return printer.TakeFirst();
}

}  // namespace rollcall::cli
