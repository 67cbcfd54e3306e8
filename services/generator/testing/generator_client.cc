#include "services/generator/testing/generator_client.h"

#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/health.h"
#include "common/rpc/status_conversion.h"

namespace rollcall::generator::testing {

void Collect(const v1::GenerateResponse& message, Outcome* outcome) {
  EXPECT_EQ(message.has_header(), outcome->messages == 0);
  if (message.has_header()) outcome->header = message.header();
  ++outcome->messages;
  if (message.has_prompt_logprobs()) {
    EXPECT_TRUE(outcome->samples.empty()) << "the prompt's log-probs come after tokens";
    EXPECT_EQ(message.prompt_logprobs().offset(), outcome->prompt_logprobs.size() + 1);
    outcome->prompt_logprobs.insert(outcome->prompt_logprobs.end(),
                                    message.prompt_logprobs().logprobs().begin(),
                                    message.prompt_logprobs().logprobs().end());
  }
  for (const v1::SampleDelta& delta : message.deltas()) {
    Outcome::Sample& sample = outcome->samples[delta.index()];
    EXPECT_TRUE(sample.ends.empty()) << "tokens after the end of sample " << delta.index();
    EXPECT_EQ(delta.token_ids_size(), delta.logprobs_size());
    if (!delta.kept_log_mass().empty()) {
      EXPECT_EQ(delta.sampling_logprobs_size(), delta.kept_log_mass_size());
    }
    if (!sample.tokens.empty()) {
      EXPECT_GE(delta.offset(), sample.tokens.size());  // more by the length of a prefix
    }
    sample.tokens.insert(sample.tokens.end(), delta.token_ids().begin(), delta.token_ids().end());
    sample.logprobs.insert(sample.logprobs.end(), delta.logprobs().begin(), delta.logprobs().end());
    sample.sampling_logprobs.insert(sample.sampling_logprobs.end(),
                                    delta.sampling_logprobs().begin(),
                                    delta.sampling_logprobs().end());
    sample.kept_log_mass.insert(sample.kept_log_mass.end(), delta.kept_log_mass().begin(),
                                delta.kept_log_mass().end());
    sample.alternatives.insert(sample.alternatives.end(), delta.alternatives().begin(),
                               delta.alternatives().end());
    sample.policy_steps.resize(sample.tokens.size(), delta.policy_step());
    sample.mixed_kv.resize(sample.tokens.size(), delta.mixed_kv());
    sample.text += delta.text();
  }
  for (const v1::SampleEnd& end : message.ends()) outcome->samples[end.index()].ends.push_back(end);
}

void GeneratorClient::SetDeadline(grpc::ClientContext* context) {
  context->set_deadline(absl::ToChronoTime(absl::Now() + kPatience));
}

Outcome GeneratorClient::Generate(const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  SetDeadline(&context);
  Outcome outcome;
  const auto reader = generator_->Generate(&context, request);
  v1::GenerateResponse message;
  while (reader->Read(&message)) Collect(message, &outcome);
  outcome.status = rpc::FromGrpc(reader->Finish());
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto retry = trailers.find("retry-after-ms");
  if (retry != trailers.end())
    outcome.retry_after_ms.assign(retry->second.data(), retry->second.size());
  return outcome;
}

v1::ServerState GeneratorClient::State() {
  grpc::ClientContext context;
  SetDeadline(&context);
  v1::ServerState state;
  const grpc::Status status = weights_->GetState(&context, {}, &state);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return state;
}

bool GeneratorClient::AwaitState(const std::function<bool(const v1::ServerState&)>& reached) {
  const absl::Time deadline = absl::Now() + kPatience;
  while (absl::Now() < deadline) {
    if (reached(State())) return true;
  }
  return false;
}

bool GeneratorClient::Healthy() {
  const auto healthy = rpc::CheckHealth(channel_, "", absl::Now() + kPatience);
  EXPECT_TRUE(healthy.ok()) << healthy.status();
  return healthy.value_or(false);
}

absl::Status GeneratorClient::PushWeights(const v1::PolicyVersion& version,
                                          const v1::WeightManifest& manifest,
                                          const std::vector<std::string>& tensors,
                                          size_t chunk_bytes,
                                          const std::optional<v1::AdapterContent>& adapter) {
  v1::BeginTransferRequest begin;
  if (adapter) *begin.mutable_adapter() = *adapter;
  *begin.mutable_version() = version;
  *begin.mutable_manifest() = manifest;
  begin.mutable_stream();
  v1::BeginTransferResponse begun;
  {
    grpc::ClientContext context;
    SetDeadline(&context);
    ROLLCALL_RETURN_IF_ERROR(rpc::FromGrpc(weights_->Begin(&context, begin, &begun)));
  }
  {
    grpc::ClientContext context;
    SetDeadline(&context);
    v1::PushResponse pushed;
    const auto writer = weights_->Push(&context, &pushed);
    for (uint32_t i = 0; i < tensors.size(); ++i) {
      for (size_t offset = 0; offset < tensors[i].size(); offset += chunk_bytes) {
        v1::WeightChunk chunk;
        chunk.set_transfer_id(begun.transfer_id());
        chunk.set_tensor_index(i);
        chunk.set_offset(offset);
        chunk.set_data(tensors[i].substr(offset, chunk_bytes));
        if (!writer->Write(chunk)) break;
      }
    }
    writer->WritesDone();
    ROLLCALL_RETURN_IF_ERROR(rpc::FromGrpc(writer->Finish()));
  }
  grpc::ClientContext context;
  SetDeadline(&context);
  v1::CommitRequest commit;
  commit.set_transfer_id(begun.transfer_id());
  *commit.mutable_version() = version;
  v1::CommitResponse committed;
  return rpc::FromGrpc(weights_->Commit(&context, commit, &committed));
}

void GeneratorClient::Connect(const std::string& address) {
  channel_ = *rpc::Connect(address);
  generator_ = v1::Generator::NewStub(channel_);
  weights_ = v1::Weights::NewStub(channel_);
}

}  // namespace rollcall::generator::testing
