#include "common/model/identity.h"

#include <gtest/gtest.h>

#include "common/model/kernel_choice.h"
#include "common/model/kernels/kernels.h"

namespace rollcall::model {
namespace {

ModelConfig Config() {
  ModelConfig config;
  config.vocab_size = 11;
  config.hidden_size = 8;
  config.intermediate_size = 16;
  config.num_layers = 2;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 4;
  return config;
}

Decoder MakeDecoder(uint64_t seed) {
  auto decoder = Decoder::Create(Config(), at::kFloat, at::Device(at::kCPU));
  EXPECT_TRUE(decoder.ok()) << decoder.status();
  decoder->InitializeRandom(seed);
  return *std::move(decoder);
}

TEST(IdentityTest, ArchitectureHashSeesWhatDecidesTheForwardPass) {
  const std::string hash = ArchitectureHash(Config());
  EXPECT_EQ(hash.size(), 32u);
  ModelConfig other = Config();
  other.rope.theta = 20000;
  EXPECT_NE(ArchitectureHash(other), hash);
  other = Config();
  other.tie_word_embeddings = true;
  EXPECT_NE(ArchitectureHash(other), hash);
  other = Config();
  other.dtype = "bfloat16";
  other.eos_token_ids = {3};
  EXPECT_EQ(ArchitectureHash(other), hash);
}

TEST(IdentityTest, EqualWeightsHaveEqualManifestHashes) {
  const auto manifest = ManifestOf(MakeDecoder(1));
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->tensors(0).name(), "model.embed_tokens.weight");
  EXPECT_EQ(manifest->tensors(0).shape(0), 11u);
  EXPECT_EQ(manifest->tensors(0).dtype(), v1::DATA_TYPE_FLOAT32);
  const auto hash = ManifestHash(*manifest);
  ASSERT_TRUE(hash.ok());
  EXPECT_EQ(*hash, *ManifestHash(*ManifestOf(MakeDecoder(1))));
  EXPECT_NE(*hash, *ManifestHash(*ManifestOf(MakeDecoder(2))));
}

TEST(IdentityTest, ManifestHashRefusesWhatIsNoTensor) {
  v1::WeightManifest manifest = *ManifestOf(MakeDecoder(1));
  manifest.mutable_tensors(3)->set_sha256("short");
  const auto hash = ManifestHash(manifest);
  EXPECT_EQ(hash.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(hash.status().message()).find(manifest.tensors(3).name()),
            std::string::npos);
}

TEST(IdentityTest, AnAdapterMakesAnotherPolicyOfTheSameBase) {
  Decoder decoder = MakeDecoder(1);
  const std::string base = *ManifestHash(*ManifestOf(decoder));
  EXPECT_EQ(*PolicyManifestHash(decoder), base);
  ASSERT_TRUE(decoder.AddAdapter({.r = 2, .alpha = 4, .target_modules = {"q_proj"}}).ok());
  EXPECT_EQ(*ManifestHash(*ManifestOf(decoder)), base);
  const v1::WeightManifest manifest = *AdapterManifestOf(decoder);
  ASSERT_EQ(manifest.tensors_size(), 4);
  EXPECT_EQ(manifest.tensors(1).name(),
            "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight");
  const std::string adapted = *PolicyManifestHash(decoder);
  EXPECT_EQ(adapted, *AdaptedManifestHash(decoder, base));
  EXPECT_NE(adapted, base);
  EXPECT_NE(adapted, *AdaptedManifestHash(decoder, std::string(32, 'b')));
  // The tensors count, and so does the scale that they are taken with.
  decoder.InitializeAdapter(3);
  const std::string drawn = *PolicyManifestHash(decoder);
  EXPECT_NE(drawn, adapted);
  ASSERT_TRUE(decoder.AddAdapter({.r = 2, .alpha = 5, .target_modules = {"q_proj"}}).ok());
  decoder.InitializeAdapter(3);
  EXPECT_NE(*PolicyManifestHash(decoder), drawn);
  decoder.RemoveAdapter();
  EXPECT_EQ(*PolicyManifestHash(decoder), base);
}

TEST(IdentityTest, FingerprintNamesTheArithmetic) {
  const v1::NumericsFingerprint fingerprint = FingerprintOf(MakeDecoder(1));
  EXPECT_EQ(fingerprint.dtype(), "float32");
  EXPECT_FALSE(fingerprint.arithmetic().empty());
  EXPECT_GT(fingerprint.kernel_revision(), 0u);
}

// Sets that give the same bits share a fingerprint; the portable one has its own.
TEST(ChooseKernelsTest, PinsTheSetAndRefusesOneThatIsNotThere) {
  const Decoder decoder = MakeDecoder(1);
  for (const v1::KernelIsa isa : {v1::KERNEL_ISA_PORTABLE, v1::KERNEL_ISA_AVX2,
                                  v1::KERNEL_ISA_AVX512, v1::KERNEL_ISA_AVX512_BF16}) {
    v1::KernelsSection section;
    section.set_isa(isa);
    const auto set = kernels::kInstructionSets[isa - v1::KERNEL_ISA_PORTABLE];
    const absl::Status status = ChooseKernels(section);
    if (kernels::KernelsFor(set) == nullptr) {
      EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
      EXPECT_NE(std::string(status.message()).find(kernels::NameOf(set)), std::string::npos);
      continue;
    }
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_STREQ(kernels::Kernels().instruction_set, kernels::NameOf(set));
    EXPECT_EQ(FingerprintOf(decoder).arithmetic(),
              isa == v1::KERNEL_ISA_PORTABLE ? "cpu-portable" : "cpu-fma");
  }
  v1::KernelsSection section;
  section.set_isa(static_cast<v1::KernelIsa>(99));
  EXPECT_EQ(ChooseKernels(section).code(), absl::StatusCode::kInvalidArgument);
  section.set_isa(v1::KERNEL_ISA_AUTO);
  EXPECT_TRUE(ChooseKernels(section).ok());
  const kernels::KernelTable* widest = nullptr;
  for (const kernels::InstructionSet set : kernels::kInstructionSets) {
    if (kernels::KernelsFor(set) != nullptr) widest = kernels::KernelsFor(set);
  }
  EXPECT_EQ(&kernels::Kernels(), widest);
}

TEST(IdentityTest, AFolderWithoutTokenizerHasNoHash) {
  const auto hash = TokenizerHash(::testing::TempDir());
  ASSERT_TRUE(hash.ok());
  EXPECT_TRUE(hash->empty());
}

}  // namespace
}  // namespace rollcall::model
