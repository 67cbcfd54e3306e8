#include "common/rpc/access_policy.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "rollcall/v1/generator.pb.h"
#include "rollcall/v1/learner.pb.h"
#include "rollcall/v1/logprob.pb.h"
#include "rollcall/v1/verifier.pb.h"
#include "rollcall/v1/weights.pb.h"

namespace rollcall::rpc {
namespace {

using testing::HasSubstr;

v1::SecuritySection Config() {
  v1::SecuritySection config;
  config.set_trust_domain("rollcall");
  return config;
}

bool May(const AccessPolicy& policy, const std::string& role, const std::string& method) {
  return policy.Decide({"spiffe://rollcall/" + role}, "/rollcall.v1." + method).allowed;
}

TEST(AccessPolicyTest, OnlyTheLearnerPushesWeights) {
  const AccessPolicy policy(Config(), "generator");
  for (const char* method : {"Begin", "Push", "Commit", "Abort"}) {
    EXPECT_TRUE(May(policy, "learner", absl::StrCat("Weights/", method)));
    for (const char* role : {"operator", "generator", "reward", "reference", "verifier"}) {
      EXPECT_FALSE(May(policy, role, absl::StrCat("Weights/", method))) << role << method;
    }
  }
  EXPECT_TRUE(May(policy, "generator", "Weights/Fetch"));
  EXPECT_FALSE(May(policy, "learner", "Weights/Fetch"));
}

TEST(AccessPolicyTest, ScoresAreForTheLearnerAndVerifiersForTheRewardService) {
  const AccessPolicy reward(Config(), "reward");
  EXPECT_TRUE(May(reward, "learner", "Verifier/Score"));
  EXPECT_FALSE(May(reward, "reward", "Verifier/Score"));
  const AccessPolicy verifier(Config(), "reward-model");
  EXPECT_TRUE(May(verifier, "reward", "Verifier/Score"));
  EXPECT_FALSE(May(verifier, "learner", "Verifier/Score"));
}

TEST(AccessPolicyTest, WhatIsNotListedIsDenied) {
  const AccessPolicy policy(Config(), "generator");
  EXPECT_FALSE(May(policy, "learner", "Learner/Stop"));
  EXPECT_FALSE(May(policy, "learner", "Weights/Destroy"));
  EXPECT_FALSE(May(policy, "operator", "Verifier/Describe/"));
  EXPECT_FALSE(policy.Decide({"spiffe://rollcall/learner"}, "").allowed);
  EXPECT_FALSE(policy.Decide({"spiffe://rollcall/learner"}, "Weights/Push").allowed);
  EXPECT_FALSE(policy
                   .Decide({"spiffe://rollcall/learner"},
                           "/grpc.reflection.v1alpha.ServerReflection/"
                           "ServerReflectionInfo")
                   .allowed);
}

TEST(AccessPolicyTest, HealthIsForEveryPeer) {
  const AccessPolicy policy(Config(), "generator");
  EXPECT_TRUE(policy.Decide({}, "/grpc.health.v1.Health/Check").allowed);
  EXPECT_FALSE(policy.Decide({}, "/grpc.health.v1.HealthX/Check").allowed);
}

TEST(AccessPolicyTest, NamesAreComparedWhole) {
  const AccessPolicy policy(Config(), "generator");
  for (const char* name : {"spiffe://rollcall/learner/x", "spiffe://other/learner",
                           "spiffe://rollcall/Learner", "spiffe://rollcall.example/learner",
                           "x spiffe://rollcall/learner", "learner", "spiffe://rollcall/"}) {
    EXPECT_FALSE(policy.Decide({name}, "/rollcall.v1.Weights/Push").allowed) << name;
  }
}

TEST(AccessPolicyTest, ConfiguredNamesAndPermissionsAdd) {
  v1::SecuritySection config = Config();
  v1::PeerIdentity& identity = *config.add_identities();
  identity.set_role("learner");
  identity.add_names("learner.prod.svc");
  v1::AccessRule& rule = *config.add_allow();
  rule.set_role("gateway");
  rule.set_method("rollcall.v1.Generator/*");
  const AccessPolicy policy(config, "generator");
  EXPECT_TRUE(policy.Decide({"learner.prod.svc"}, "/rollcall.v1.Weights/Push").allowed);
  EXPECT_TRUE(May(policy, "gateway", "Generator/Generate"));
  EXPECT_FALSE(May(policy, "gateway", "Weights/Push"));
}

TEST(AccessPolicyTest, TheReasonNamesRoleAndMethod) {
  const AccessPolicy policy(Config(), "generator");
  const AccessDecision decision =
      policy.Decide({"spiffe://rollcall/reward"}, "/rollcall.v1.Weights/Push");
  EXPECT_EQ(decision.role, "reward");
  EXPECT_THAT(decision.reason, HasSubstr("reward may not call rollcall.v1.Weights/Push"));
  EXPECT_THAT(policy.Decide({"nobody.example"}, "/rollcall.v1.Weights/Push").reason,
              HasSubstr("nobody.example"));
}

// A method that the policy names must exist, and each method of the contracts must be named: a new
// one that nobody may call, or a misspelt one, fails here.
TEST(AccessPolicyTest, CoversTheContracts) {
  const google::protobuf::FileDescriptor* const files[] = {
      v1::GenerateRequest::descriptor()->file(), v1::WeightChunk::descriptor()->file(),
      v1::LogProbRequest::descriptor()->file(), v1::ScoreRequest::descriptor()->file(),
      v1::LearnerStatus::descriptor()->file()};
  std::set<std::string> contract;
  for (const auto* file : files) {
    for (int i = 0; i < file->service_count(); ++i) {
      for (int j = 0; j < file->service(i)->method_count(); ++j) {
        contract.insert(
            absl::StrCat(file->service(i)->full_name(), "/", file->service(i)->method(j)->name()));
      }
    }
  }
  std::set<std::string> covered;
  for (const AccessRule& rule : BuiltInPolicy()) {
    const std::string service(rule.service);
    if (rule.method != "*") {
      covered.insert(absl::StrCat(service, "/", std::string(rule.method)));
      continue;
    }
    for (const std::string& method : contract) {
      if (method.rfind(service + "/", 0) == 0) covered.insert(method);
    }
  }
  EXPECT_EQ(covered, contract);
}

}  // namespace
}  // namespace rollcall::rpc
