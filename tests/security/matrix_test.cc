// Who may call what, in truth: every server of docs/security.md's table is started, and each of its
// methods is called under each role's certificate. The servers' methods are the contracts' default
// ones, which answer UNIMPLEMENTED: the policy stands before them.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/base/file.h"
#include "common/rpc/channel.h"
#include "common/rpc/dev_certificates.h"
#include "common/rpc/server.h"
#include "rollcall/v1/generator.grpc.pb.h"
#include "rollcall/v1/learner.grpc.pb.h"
#include "rollcall/v1/logprob.grpc.pb.h"
#include "rollcall/v1/verifier.grpc.pb.h"
#include "rollcall/v1/weights.grpc.pb.h"

namespace rollcall::rpc {
namespace {

struct Table {
  std::vector<std::string> roles;
  // server → method → roles that may
  std::map<std::string, std::map<std::string, std::set<std::string>>> allowed;
};

std::vector<std::string> Cells(const std::string& line) {
  std::vector<std::string> cells = absl::StrSplit(line, '|');
  for (std::string& cell : cells) absl::StripAsciiWhitespace(&cell);
  return {cells.begin() + 1, cells.end() - 1};
}

Table ReadTable() {
  const std::string path = std::string(std::getenv("ROLLCALL_SOURCE_DIR")) + "/docs/security.md";
  const std::string text = ReadFile(path).value();
  Table table;
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  for (const std::string& line : lines) {
    if (line.rfind("| server | method |", 0) == 0) {
      const std::vector<std::string> header = Cells(line);
      table.roles.assign(header.begin() + 2, header.end());
      continue;
    }
    if (table.roles.empty() || line.rfind("| ---", 0) == 0) continue;
    if (line.rfind("|", 0) != 0) break;
    const std::vector<std::string> row = Cells(line);
    std::set<std::string>& roles = table.allowed[row.at(0)][row.at(1)];
    for (size_t i = 2; i < row.size(); ++i) {
      if (row[i] == "yes") roles.insert(table.roles.at(i - 2));
    }
  }
  return table;
}

class MatrixTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = "/tmp/rollcall_matrix_test.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    table_ = ReadTable();
    ASSERT_EQ(table_.roles.size(), 6u);
    const absl::Time start = absl::Now() - absl::Minutes(1);
    const absl::Time end = absl::Now() + absl::Hours(1);
    ASSERT_TRUE(MakeDevAuthority(folder_, start, end).ok());
    std::vector<std::string> roles = table_.roles;
    roles.push_back("stranger");
    for (const std::string& role : roles) {
      ASSERT_TRUE(IssueDevCertificate(folder_, {.name = role,
                                                .uris = {"spiffe://rollcall/" + role},
                                                .hosts = {"127.0.0.1"},
                                                .not_before = start,
                                                .not_after = end})
                      .ok());
      securities_[role] = Security::FromConfig(Config(role)).value();
    }
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  v1::SecuritySection Config(const std::string& role) const {
    v1::SecuritySection config;
    config.set_certificate(absl::StrCat(folder_, "/", role, ".pem"));
    config.set_private_key(absl::StrCat(folder_, "/", role, ".key"));
    config.set_trust_roots(folder_ + "/ca.pem");
    config.set_trust_domain("rollcall");
    return config;
  }

  std::unique_ptr<Server> StartServer(const std::string& name) {
    return Server::Start({.address = "127.0.0.1:0",
                          .service = name,
                          .security = securities_.at(name),
                          .policy = Config(name)},
                         {&generator_, &weights_, &logprob_, &verifier_, &learner_})
        .value();
  }

  static grpc::StatusCode Call(const std::shared_ptr<grpc::Channel>& channel,
                               const std::string& method) {
    grpc::GenericStub stub(channel);
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(30)));
    const grpc::Slice empty("");
    const grpc::ByteBuffer request(&empty, 1);
    grpc::ByteBuffer response;
    grpc::Status status;
    absl::Notification done;
    stub.UnaryCall(&context, "/" + method, grpc::StubOptions(), &request, &response,
                   [&](grpc::Status result) {
                     status = std::move(result);
                     done.Notify();
                   });
    done.WaitForNotification();
    return status.error_code();
  }

  static std::set<std::string> ContractMethods() {
    std::set<std::string> methods;
    for (const auto* file :
         {v1::GenerateRequest::descriptor()->file(), v1::WeightChunk::descriptor()->file(),
          v1::LogProbRequest::descriptor()->file(), v1::ScoreRequest::descriptor()->file(),
          v1::LearnerStatus::descriptor()->file()}) {
      for (int i = 0; i < file->service_count(); ++i) {
        for (int j = 0; j < file->service(i)->method_count(); ++j) {
          methods.insert(absl::StrCat(file->service(i)->full_name(), "/",
                                      file->service(i)->method(j)->name()));
        }
      }
    }
    return methods;
  }

  v1::Generator::CallbackService generator_;
  v1::Weights::CallbackService weights_;
  v1::LogProb::CallbackService logprob_;
  v1::Verifier::CallbackService verifier_;
  v1::Learner::CallbackService learner_;
  std::string folder_;
  Table table_;
  std::map<std::string, Security> securities_;
};

TEST_F(MatrixTest, EveryRoleAndMethodIsAsDocumented) {
  const std::set<std::string> methods = ContractMethods();
  ASSERT_GE(methods.size(), 17u);
  for (const auto& [name, documented] : table_.allowed) {
    auto server = StartServer(name);
    for (const auto& [role, security] : securities_) {
      auto channel = Connect(server->bound_address(), {.security = security}).value();
      for (const std::string& method : methods) {
        const auto row = documented.find(method);
        const bool may = row != documented.end() && row->second.count(role) > 0;
        const grpc::StatusCode code = Call(channel, method);
        EXPECT_EQ(code, may ? grpc::StatusCode::UNIMPLEMENTED : grpc::StatusCode::PERMISSION_DENIED)
            << role << " calls " << method << " at the " << name;
      }
      EXPECT_EQ(Call(channel, "grpc.health.v1.Health/Check"), grpc::StatusCode::OK);
      EXPECT_EQ(Call(channel, "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
                grpc::StatusCode::PERMISSION_DENIED);
    }
  }
}

TEST_F(MatrixTest, TheTableNamesEveryMethod) {
  std::set<std::string> documented;
  for (const auto& [name, rows] : table_.allowed) {
    for (const auto& [method, roles] : rows) {
      documented.insert(method);
      EXPECT_FALSE(roles.empty()) << method;
    }
  }
  EXPECT_EQ(documented, ContractMethods());
}

}  // namespace
}  // namespace rollcall::rpc
