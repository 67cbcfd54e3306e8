#include "common/rpc/security.h"

#include <gmock/gmock.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "common/base/file.h"
#include "common/rpc/certificate.h"
#include "common/rpc/channel.h"
#include "common/rpc/dev_certificates.h"
#include "common/rpc/server.h"
#include "common/rpc/test_service.h"

namespace rollcall::rpc {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

absl::Time Soon() { return absl::Now() + absl::Seconds(30); }

class SecurityTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = "/tmp/rollcall_security_test.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    MakeAuthority(folder_);
    Issue(folder_, "reference");
    Issue(folder_, "learner");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  static void MakeAuthority(const std::string& folder) {
    ASSERT_TRUE(
        MakeDevAuthority(folder, absl::Now() - absl::Hours(1), absl::Now() + absl::Hours(1)).ok());
  }
  static void Issue(const std::string& folder, const std::string& role,
                    absl::Duration age = absl::Minutes(1),
                    absl::Duration lifetime = absl::Hours(1)) {
    const absl::Time start = absl::Now() - age;
    const absl::Status issued = IssueDevCertificate(folder, {.name = role,
                                                             .uris = {"spiffe://rollcall/" + role},
                                                             .hosts = {"localhost", "127.0.0.1"},
                                                             .not_before = start,
                                                             .not_after = start + lifetime});
    ASSERT_TRUE(issued.ok()) << issued;
  }

  v1::SecuritySection Config(const std::string& role, std::string folder = "") const {
    if (folder.empty()) folder = folder_;
    v1::SecuritySection config;
    config.set_certificate(folder + "/" + role + ".pem");
    config.set_private_key(folder + "/" + role + ".key");
    config.set_trust_roots(folder + "/ca.pem");
    config.set_refresh_interval(1);
    config.set_trust_domain("rollcall");
    return config;
  }
  Security SecurityOf(const std::string& role, const std::string& folder = "") const {
    return Security::FromConfig(Config(role, folder)).value();
  }

  std::unique_ptr<Server> StartServer(metrics::Registry* metrics = nullptr) {
    return Server::Start({.address = "127.0.0.1:0",
                          .service = "reference",
                          .security = SecurityOf("reference"),
                          .policy = Config("reference"),
                          .metrics = metrics},
                         {&service_})
        .value();
  }

  static absl::Status Score(const std::string& address, const Security& security) {
    auto stub = v1::LogProb::NewStub(Connect(address, {.security = security}).value());
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(Soon()));
    v1::LogProbResponse response;
    return FromGrpc(stub->Score(&context, v1::LogProbRequest(), &response));
  }

  TestService service_;
  std::string folder_;
};

TEST_F(SecurityTest, RolesThatMayCallDo) {
  metrics::Registry metrics;
  auto server = StartServer(&metrics);
  Issue(folder_, "reward");
  EXPECT_TRUE(Score(server->bound_address(), SecurityOf("learner")).ok());
  const absl::Status denied = Score(server->bound_address(), SecurityOf("reward"));
  EXPECT_EQ(denied.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(denied.message()), HasSubstr("rollcall.v1.LogProb/Score"));
  EXPECT_THAT(metrics.Text(), HasSubstr("rollcall_rpc_denied_total 1"));
}

TEST_F(SecurityTest, StrangersAndPlainTextAreRefused) {
  auto server = StartServer();
  const std::string other = folder_ + "/other";
  MakeAuthority(other);
  Issue(other, "learner");
  EXPECT_EQ(Score(server->bound_address(), SecurityOf("learner", other)).code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(Score(server->bound_address(), Security()).code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(Score(server->bound_address(), SecurityOf("learner")).ok());
}

TEST_F(SecurityTest, TheServersNameMustBeTheOneConnectedTo) {
  const absl::Time now = absl::Now();
  ASSERT_TRUE(IssueDevCertificate(folder_, {.name = "reference",
                                            .uris = {"spiffe://rollcall/reference"},
                                            .hosts = {"elsewhere.example"},
                                            .not_before = now - absl::Minutes(1),
                                            .not_after = now + absl::Hours(1)})
                  .ok());
  auto server = StartServer();
  EXPECT_EQ(Score(server->bound_address(), SecurityOf("learner")).code(),
            absl::StatusCode::kUnavailable);
}

// The server starts with a certificate of one authority and goes on with another's, without a
// restart: a client that trusts only the second gets through once the files were read again.
TEST_F(SecurityTest, CertificatesAreReplacedWhileServing) {
  auto server = StartServer();
  const Security before = SecurityOf("learner");
  ASSERT_TRUE(Score(server->bound_address(), before).ok());
  const std::string next = folder_ + "/next";
  MakeAuthority(next);
  Issue(next, "reference");
  Issue(next, "learner");
  for (const char* file : {"reference.key", "reference.pem", "ca.pem"}) {
    std::filesystem::rename(next + "/" + file, folder_ + "/" + file);
  }
  std::filesystem::copy(folder_ + "/ca.pem", next + "/ca.pem");
  const Security after = SecurityOf("learner", next);
  absl::Status status;
  do {
    status = Score(server->bound_address(), after);
  } while (!status.ok() && absl::Now() < Soon());
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(SecurityTest, WhatCannotWorkIsRefusedAtTheStart) {
  Issue(folder_, "late", absl::Hours(2), absl::Hours(1));
  const absl::Status expired = Security::FromConfig(Config("late")).status();
  EXPECT_EQ(expired.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(expired.message()), HasSubstr("late.pem"));

  v1::SecuritySection mixed = Config("learner");
  mixed.set_private_key(folder_ + "/reference.key");
  EXPECT_EQ(Security::FromConfig(mixed).status().code(), absl::StatusCode::kInvalidArgument);

  v1::SecuritySection absent = Config("nobody");
  EXPECT_EQ(Security::FromConfig(absent).status().code(), absl::StatusCode::kNotFound);

  ASSERT_TRUE(WriteFileAtomically(folder_ + "/ca.pem", "no certificate").ok());
  EXPECT_EQ(Security::FromConfig(Config("learner")).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(SecurityTest, CertificatesTellTheirNamesAndEnd) {
  const CertificateInfo info = ParseCertificate(ReadFile(folder_ + "/learner.pem").value()).value();
  EXPECT_THAT(info.uris, ElementsAre("spiffe://rollcall/learner"));
  EXPECT_THAT(info.dns_names, ElementsAre("localhost"));
  EXPECT_EQ(SecurityOf("learner").identity->Expiry(), info.not_after);
  struct stat key {};
  ASSERT_EQ(::stat((folder_ + "/learner.key").c_str(), &key), 0);
  EXPECT_EQ(key.st_mode & 0777, 0600u);
}

TEST(IsLocalTest, LoopbackAlone) {
  for (const char* local : {"unix:/x", "localhost:1", "127.0.0.1:1", "127.9.9.9:1", "[::1]:1"}) {
    EXPECT_TRUE(IsLocal(ParseAddress(local).value())) << local;
  }
  for (const char* other : {"0.0.0.0:1", "[::]:1", "10.0.0.1:1", "localhost.example:1", "a:1"}) {
    EXPECT_FALSE(IsLocal(ParseAddress(other).value())) << other;
  }
}

}  // namespace
}  // namespace rollcall::rpc
