#include "services/generator/weights/weight_staging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace rollcall::generator {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr absl::StatusCode kOk = absl::StatusCode::kOk;

WeightLayout Layout() {
  WeightLayout layout;
  layout.tensors = {{.name = "a", .dtype = wire::DType::kFloat32, .shape = {2, 3}},
                    {.name = "b", .dtype = wire::DType::kBFloat16, .shape = {5}}};
  layout.architecture_hash = wire::ToBytes(wire::Sha256Of("architecture"));
  layout.tokenizer_hash = wire::ToBytes(wire::Sha256Of("tokenizer"));
  return layout;
}

// The bytes of step `step`: 24 for tensor a, 10 for tensor b.
std::vector<std::string> Bytes(uint64_t step) {
  return {std::string(24, static_cast<char>('a' + step)),
          std::string(10, static_cast<char>('A' + step))};
}

v1::BeginTransferRequest BeginRequest(const std::string& run, uint64_t lineage, uint64_t step) {
  v1::BeginTransferRequest request;
  std::vector<wire::TensorEntry> entries = Layout().tensors;
  for (size_t i = 0; i < entries.size(); ++i) {
    entries[i].sha256 = wire::Sha256Of(Bytes(step)[i]);
    v1::TensorSpec& spec = *request.mutable_manifest()->add_tensors();
    spec.set_name(entries[i].name);
    spec.set_dtype(static_cast<v1::DataType>(entries[i].dtype));
    for (const int64_t dimension : entries[i].shape)
      spec.add_shape(static_cast<uint64_t>(dimension));
    spec.set_sha256(wire::ToBytes(entries[i].sha256));
  }
  request.mutable_manifest()->set_architecture_hash(wire::ToBytes(wire::Sha256Of("architecture")));
  request.mutable_manifest()->set_tokenizer_hash(wire::ToBytes(wire::Sha256Of("tokenizer")));
  request.mutable_version()->set_run_id(run);
  request.mutable_version()->set_lineage(lineage);
  request.mutable_version()->set_step(step);
  request.mutable_version()->set_manifest_hash(wire::ToBytes(wire::ManifestHash(entries)));
  request.mutable_stream();
  return request;
}

// A small Llama; an adapter of rank 1 on its q_proj.
WeightLayout LayoutWithBase() {
  WeightLayout layout = Layout();
  model::ModelConfig& model = layout.model;
  model.vocab_size = 5;
  model.hidden_size = 4;
  model.intermediate_size = 6;
  model.num_layers = model.num_heads = model.num_kv_heads = 1;
  model.head_dim = 4;
  layout.base_manifest_hash = wire::ToBytes(wire::Sha256Of("base"));
  return layout;
}
constexpr char kAdapterConfig[] =
    R"({"lora_alpha":2.0,"peft_type":"LORA","r":1,"target_modules":["q_proj"],"use_rslora":false})";

v1::BeginTransferRequest AdapterRequest(uint64_t step) {
  v1::BeginTransferRequest request = BeginRequest("run", 1, step);
  request.mutable_manifest()->clear_tensors();
  request.mutable_adapter()->set_base_manifest_hash(wire::ToBytes(wire::Sha256Of("base")));
  request.mutable_adapter()->set_adapter_config(kAdapterConfig);
  for (const bool up : {false, true}) {
    v1::TensorSpec& spec = *request.mutable_manifest()->add_tensors();
    spec.set_name(absl::StrCat("base_model.model.model.layers.0.self_attn.q_proj.lora_",
                               up ? "B" : "A", ".weight"));
    spec.set_dtype(v1::DATA_TYPE_FLOAT32);
    spec.add_shape(up ? 4 : 1);
    spec.add_shape(up ? 1 : 4);
    spec.set_sha256(wire::ToBytes(wire::Sha256Of(std::string(16, static_cast<char>('a' + step)))));
  }
  return request;
}

// Gives the request the hash of what it is.
v1::BeginTransferRequest Sealed(v1::BeginTransferRequest request) {
  std::vector<wire::TensorEntry> entries;
  for (const v1::TensorSpec& spec : request.manifest().tensors()) {
    entries.push_back({.name = spec.name(),
                       .dtype = *wire::DTypeFromCode(spec.dtype()),
                       .shape = {spec.shape().begin(), spec.shape().end()},
                       .sha256 = *wire::DigestFromBytes(spec.sha256())});
  }
  request.mutable_version()->set_manifest_hash(wire::ToBytes(
      wire::AdaptedManifestHash(*wire::DigestFromBytes(request.adapter().base_manifest_hash()),
                                wire::ManifestHash(entries), request.adapter().adapter_config())));
  return request;
}

v1::WeightChunk Chunk(uint64_t transfer, uint32_t tensor, uint64_t offset, std::string data) {
  v1::WeightChunk chunk;
  chunk.set_transfer_id(transfer);
  chunk.set_tensor_index(tensor);
  chunk.set_offset(offset);
  chunk.set_data(std::move(data));
  return chunk;
}

v1::CommitRequest Commit(uint64_t transfer, const v1::PolicyVersion& version) {
  v1::CommitRequest request;
  request.set_transfer_id(transfer);
  *request.mutable_version() = version;
  return request;
}

class WeightStagingTest : public testing::Test {
 protected:
  uint64_t BeginOk(const v1::BeginTransferRequest& request) {
    const auto response = staging_.Begin(request);
    EXPECT_TRUE(response.ok()) << response.status();
    return response.ok() ? response->transfer_id() : 0;
  }
  absl::Status BeginStatus(const std::string& run, uint64_t lineage, uint64_t step) {
    return staging_.Begin(BeginRequest(run, lineage, step)).status();
  }
  void PushAll(uint64_t transfer, uint64_t step) {
    for (uint32_t i = 0; i < 2; ++i) {
      EXPECT_EQ(staging_.Write(Chunk(transfer, i, 0, Bytes(step)[i])).code(), kOk);
    }
  }
  void Publish(const std::string& run, uint64_t lineage, uint64_t step) {
    const auto request = BeginRequest(run, lineage, step);
    const uint64_t id = BeginOk(request);
    PushAll(id, step);
    const auto weights = staging_.BeginCommit(Commit(id, request.version()));
    ASSERT_TRUE(weights.ok()) << weights.status();
    ASSERT_NE(*weights, nullptr);
    staging_.EndCommit(absl::OkStatus());
  }

  WeightStaging staging_{Layout(), std::nullopt};
};

TEST_F(WeightStagingTest, WholeTransferIsHandedOver) {
  EXPECT_FALSE(staging_.up_to_date());
  const auto request = BeginRequest("run", 1, 0);
  const uint64_t id = BeginOk(request);
  // Out of order, in pieces, one of them twice.
  EXPECT_EQ(staging_.Write(Chunk(id, 0, 10, Bytes(0)[0].substr(10))).code(), kOk);
  EXPECT_EQ(staging_.Write(Chunk(id, 1, 0, Bytes(0)[1])).code(), kOk);
  EXPECT_EQ(staging_.Write(Chunk(id, 0, 0, Bytes(0)[0].substr(0, 10))).code(), kOk);
  EXPECT_EQ(staging_.Write(Chunk(id, 0, 5, Bytes(0)[0].substr(5, 8))).code(), kOk);
  const auto weights = staging_.BeginCommit(Commit(id, request.version()));
  ASSERT_TRUE(weights.ok()) << weights.status();
  ASSERT_EQ((*weights)->tensors.size(), 2u);
  EXPECT_EQ((*weights)->tensors[0].bytes, Bytes(0)[0]);
  EXPECT_EQ((*weights)->tensors[1].bytes, Bytes(0)[1]);
  EXPECT_EQ((*weights)->version.run_id(), "run");
  EXPECT_FALSE(staging_.up_to_date());
  staging_.EndCommit(absl::OkStatus());
  EXPECT_TRUE(staging_.up_to_date());
}

TEST_F(WeightStagingTest, CommitAndBeginOfWhatIsHeldAreIdempotent) {
  Publish("run", 1, 3);
  const auto again = staging_.BeginCommit(Commit(99, BeginRequest("run", 1, 3).version()));
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(*again, nullptr);
  EXPECT_EQ(BeginStatus("run", 1, 3).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(staging_.up_to_date());
}

TEST_F(WeightStagingTest, BeginContinuesTheSameTransfer) {
  const auto request = BeginRequest("run", 1, 0);
  const uint64_t id = BeginOk(request);
  EXPECT_EQ(staging_.Write(Chunk(id, 1, 0, Bytes(0)[1])).code(), kOk);
  const auto again = staging_.Begin(request);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->transfer_id(), id);
  EXPECT_THAT(again->complete_tensors(), ElementsAre(1u));
}

TEST_F(WeightStagingTest, NewerVersionDiscardsTheOpenTransfer) {
  const uint64_t old = BeginOk(BeginRequest("run", 1, 1));
  const auto next = staging_.Begin(BeginRequest("run", 1, 2));
  ASSERT_TRUE(next.ok());
  EXPECT_NE(next->transfer_id(), old);
  EXPECT_THAT(next->complete_tensors(), IsEmpty());
  EXPECT_EQ(staging_.Write(Chunk(old, 0, 0, "x")).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(BeginStatus("run", 1, 1).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(WeightStagingTest, FencesRunsLineagesAndSteps) {
  Publish("run", 2, 5);
  EXPECT_THAT(BeginStatus("other", 3, 9).message(), HasSubstr("version.run_id"));
  EXPECT_THAT(BeginStatus("run", 1, 9).message(), HasSubstr("version.lineage"));
  EXPECT_THAT(BeginStatus("run", 2, 4).message(), HasSubstr("version.step"));
  for (const auto& status :
       {BeginStatus("other", 3, 9), BeginStatus("run", 1, 9), BeginStatus("run", 2, 4)}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  }
  // A new lineage starts wherever its checkpoint was; seeing it shuts the old one out at once.
  BeginOk(BeginRequest("run", 3, 1));
  EXPECT_EQ(BeginStatus("run", 2, 6).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(WeightStagingTest, FirstRunAdoptsAServerThatLoadedAFolder) {
  v1::PolicyVersion loaded;
  loaded.set_manifest_hash(std::string(32, 'h'));
  WeightStaging staging(Layout(), loaded);
  EXPECT_TRUE(staging.up_to_date());
  EXPECT_TRUE(staging.Begin(BeginRequest("first", 1, 0)).ok());
  EXPECT_EQ(staging.Begin(BeginRequest("second", 1, 0)).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(WeightStagingTest, DamagedTensorsAreNamedAndCanBePushedAgain) {
  const auto request = BeginRequest("run", 1, 0);
  const uint64_t id = BeginOk(request);
  PushAll(id, 0);
  EXPECT_EQ(staging_.Write(Chunk(id, 1, 3, "!")).code(), kOk);
  const auto damaged = staging_.BeginCommit(Commit(id, request.version()));
  EXPECT_EQ(damaged.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(damaged.status().message(), AllOf(HasSubstr(" b"), Not(HasSubstr(" a"))));
  EXPECT_THAT(staging_.Begin(request)->complete_tensors(), ElementsAre(0u));
  EXPECT_EQ(staging_.Write(Chunk(id, 1, 0, Bytes(0)[1])).code(), kOk);
  EXPECT_TRUE(staging_.BeginCommit(Commit(id, request.version())).ok());
}

TEST_F(WeightStagingTest, MissingBytesAreNamed) {
  const auto request = BeginRequest("run", 1, 0);
  const uint64_t id = BeginOk(request);
  EXPECT_EQ(staging_.Write(Chunk(id, 0, 1, Bytes(0)[0].substr(1))).code(), kOk);
  const auto status = staging_.BeginCommit(Commit(id, request.version())).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("a, b"));
}

TEST_F(WeightStagingTest, NothingMovesWhileACommitIsInProgress) {
  const auto request = BeginRequest("run", 1, 0);
  const uint64_t id = BeginOk(request);
  PushAll(id, 0);
  ASSERT_TRUE(staging_.BeginCommit(Commit(id, request.version())).ok());
  constexpr absl::StatusCode kUnavailable = absl::StatusCode::kUnavailable;
  EXPECT_EQ(BeginStatus("run", 1, 1).code(), kUnavailable);
  EXPECT_EQ(staging_.Write(Chunk(id, 0, 0, "x")).code(), kUnavailable);
  EXPECT_EQ(staging_.Abort(id).code(), kUnavailable);
  EXPECT_EQ(staging_.BeginCommit(Commit(id, request.version())).status().code(), kUnavailable);
  // Weights that could not be put into service leave the server without any.
  staging_.EndCommit(absl::InternalError("no"));
  EXPECT_FALSE(staging_.up_to_date());
  EXPECT_TRUE(staging_.Begin(request).ok());
}

TEST_F(WeightStagingTest, AbortDropsTheTransferOnce) {
  Publish("run", 1, 0);
  const uint64_t id = BeginOk(BeginRequest("run", 1, 1));
  EXPECT_FALSE(staging_.up_to_date());
  EXPECT_TRUE(staging_.Abort(id + 1).ok());
  EXPECT_FALSE(staging_.up_to_date());
  EXPECT_TRUE(staging_.Abort(id).ok());
  EXPECT_TRUE(staging_.Abort(id).ok());
  EXPECT_TRUE(staging_.up_to_date());
}

TEST_F(WeightStagingTest, ListsEveryTensorThatDoesNotFit) {
  auto request = BeginRequest("run", 1, 0);
  auto& tensors = *request.mutable_manifest()->mutable_tensors();
  tensors[0].set_dtype(v1::DATA_TYPE_BFLOAT16);
  tensors[1].set_name("c");
  const absl::Status status = staging_.Begin(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("a: dtype bfloat16, expected float32"),
                    HasSubstr("c: not a tensor of this model"), HasSubstr("b: missing")));
  request = BeginRequest("run", 1, 0);
  request.mutable_manifest()->mutable_tensors()->SwapElements(0, 1);
  EXPECT_THAT(staging_.Begin(request).status().message(), HasSubstr("canonical order"));
  request = BeginRequest("run", 1, 0);
  request.mutable_manifest()->mutable_tensors(0)->set_shape(1, 4);
  EXPECT_THAT(staging_.Begin(request).status().message(),
              HasSubstr("a: shape [2, 4], expected [2, 3]"));
}

TEST_F(WeightStagingTest, RefusesHostileBegins) {
  const auto status_of = [this](auto change) {
    auto request = BeginRequest("run", 1, 0);
    change(request);
    return staging_.Begin(request).status();
  };
  using Request = v1::BeginTransferRequest;
  EXPECT_THAT(status_of([](Request& r) { r.mutable_version()->set_run_id("a/b"); }).message(),
              HasSubstr("version.run_id"));
  EXPECT_THAT(status_of([](Request& r) { r.mutable_version()->set_lineage(0); }).message(),
              HasSubstr("version.lineage"));
  EXPECT_THAT(
      status_of([](Request& r) { r.mutable_version()->set_manifest_hash("short"); }).message(),
      HasSubstr("version.manifest_hash"));
  EXPECT_THAT(status_of([](Request& r) {
                r.mutable_version()->set_manifest_hash(std::string(32, 'x'));
              }).message(),
              HasSubstr("version.manifest_hash"));
  EXPECT_EQ(status_of([](Request& r) { r.mutable_manifest()->set_architecture_hash("x"); }).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status_of([](Request& r) { r.mutable_manifest()->clear_tokenizer_hash(); }).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status_of([](Request& r) { r.mutable_nccl(); }).code(),
            absl::StatusCode::kUnimplemented);
  EXPECT_EQ(status_of([](Request& r) { r.mutable_delta(); }).code(),
            absl::StatusCode::kUnimplemented);
  // None of these tied the server to the run.
  EXPECT_TRUE(staging_.Begin(BeginRequest("other", 1, 0)).ok());
}

TEST_F(WeightStagingTest, RefusesHostileChunks) {
  const uint64_t id = BeginOk(BeginRequest("run", 1, 0));
  constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(staging_.Write(Chunk(id, 2, 0, "x")).code(), kInvalid);
  EXPECT_EQ(staging_.Write(Chunk(id, 0, 24, "x")).code(), kInvalid);
  EXPECT_EQ(staging_.Write(Chunk(id, 0, ~uint64_t{0}, "x")).code(), kInvalid);
  EXPECT_EQ(staging_.Write(Chunk(id, 0, 0, std::string((4 << 20) + 1, 'x'))).code(), kInvalid);
  EXPECT_EQ(staging_.Write(Chunk(id + 1, 0, 0, "x")).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(staging_.BeginCommit(Commit(id + 1, {})).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(staging_.BeginCommit(Commit(id, BeginRequest("run", 1, 1).version())).status().code(),
            kInvalid);
}

TEST(AdapterStaging, TakesAnAdapterOfItsBaseAgainAndAgain) {
  WeightStaging staging(LayoutWithBase(), std::nullopt);
  for (const uint64_t step : {0, 1}) {
    const v1::BeginTransferRequest request = Sealed(AdapterRequest(step));
    const auto begun = staging.Begin(request);
    ASSERT_TRUE(begun.ok()) << begun.status();
    for (const uint32_t tensor : {0, 1}) {
      const std::string bytes(16, static_cast<char>('a' + step));
      ASSERT_TRUE(staging.Write(Chunk(begun->transfer_id(), tensor, 0, bytes)).ok());
    }
    v1::CommitRequest commit;
    commit.set_transfer_id(begun->transfer_id());
    *commit.mutable_version() = request.version();
    const auto weights = staging.BeginCommit(commit);
    ASSERT_TRUE(weights.ok()) << weights.status();
    ASSERT_TRUE((*weights)->adapter.has_value());
    EXPECT_EQ((*weights)->adapter->Scale(), 2.0);
    EXPECT_EQ((*weights)->tensors[1].entry.shape, (std::vector<int64_t>{4, 1}));
    staging.EndCommit(absl::OkStatus());
    EXPECT_TRUE(staging.up_to_date());
  }
}

TEST(AdapterStaging, RefusesWhatDoesNotFit) {
  const auto refusal = [](const v1::BeginTransferRequest& request, WeightLayout layout) {
    return WeightStaging(std::move(layout), std::nullopt).Begin(request).status();
  };
  using Code = absl::StatusCode;
  const auto expect = [&](const v1::BeginTransferRequest& request, Code code, const char* said,
                          WeightLayout layout = LayoutWithBase()) {
    const absl::Status status = refusal(request, std::move(layout));
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(status.message(), HasSubstr(said));
  };
  v1::BeginTransferRequest request = AdapterRequest(0);
  expect(request, Code::kInvalidArgument, "version.manifest_hash");
  request = AdapterRequest(0);
  request.mutable_adapter()->set_base_manifest_hash(wire::ToBytes(wire::Sha256Of("other")));
  expect(Sealed(request), Code::kFailedPrecondition, "content.adapter.base_manifest_hash");
  request.mutable_adapter()->set_base_manifest_hash("short");
  expect(request, Code::kInvalidArgument, "content.adapter.base_manifest_hash: expected 32 bytes");
  WeightLayout waits = LayoutWithBase();
  waits.base_manifest_hash.clear();
  expect(Sealed(AdapterRequest(0)), Code::kFailedPrecondition, "holds no weights", waits);

  request = AdapterRequest(0);
  request.mutable_adapter()->set_adapter_config(absl::StrCat(kAdapterConfig, " "));
  expect(Sealed(request), Code::kInvalidArgument, "canonical form");
  request.mutable_adapter()->set_adapter_config("{}");
  expect(Sealed(request), Code::kInvalidArgument, "content.adapter.adapter_config: peft_type");
  request = AdapterRequest(0);
  request.mutable_manifest()->mutable_tensors(1)->set_shape(0, 5);
  expect(Sealed(request), Code::kInvalidArgument, "lora_B.weight: shape [5, 1], expected [4, 1]");
  request = AdapterRequest(0);
  request.mutable_manifest()->mutable_tensors()->RemoveLast();
  expect(Sealed(request), Code::kInvalidArgument, "lora_B.weight: missing");
}

}  // namespace
}  // namespace rollcall::generator
