#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/file.h"
#include "tests/contracts/listing.h"

namespace rollcall::contracts {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

using google::protobuf::FileDescriptor;

std::string SourceDir() {
  const char* folder = std::getenv("ROLLCALL_SOURCE_DIR");
  return folder == nullptr ? "." : folder;
}

// Descriptors of a folder's .proto files, with their comments, as protoc makes them.
class Sources {
 public:
  explicit Sources(const std::string& root) {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
      if (entry.path().extension() == ".proto") names.push_back(entry.path().string());
    }
    const std::string set_path =
        absl::StrCat(testing::TempDir(), "/contract_", getpid(), "_", names.size(), ".desc");
    const char* protoc = std::getenv("ROLLCALL_PROTOC");
    const std::string command =
        absl::StrCat(protoc == nullptr ? "protoc" : protoc, " -I '", root,
                     "' --include_imports --include_source_info --descriptor_set_out='", set_path,
                     "' '", absl::StrJoin(names, "' '"), "'");
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
    google::protobuf::FileDescriptorSet set;
    EXPECT_TRUE(set.ParseFromString(ReadFile(set_path).value_or("")));
    RemoveTree(set_path).IgnoreError();
    for (const auto& file : set.file()) {
      const FileDescriptor* built = pool_.BuildFile(file);
      EXPECT_NE(built, nullptr) << file.name();
      if (file.name().rfind("google/", 0) != 0) files.push_back(built);
    }
  }

  std::vector<const FileDescriptor*> files;

 private:
  google::protobuf::DescriptorPool pool_;
};

// A folder with one file of package t.
class OneFile {
 public:
  explicit OneFile(const std::string& body)
      : folder_(absl::StrCat(testing::TempDir(), "/contract_", reinterpret_cast<uintptr_t>(this))) {
    EXPECT_TRUE(MakeDirectories(folder_).ok());
    EXPECT_TRUE(WriteFileAtomically(folder_ + "/t.proto",
                                    absl::StrCat("syntax = \"proto3\";\npackage t;\n", body))
                    .ok());
    sources_ = std::make_unique<Sources>(folder_);
  }
  ~OneFile() { RemoveTree(folder_).IgnoreError(); }

  std::set<std::string> Listing() const { return ListContract(sources_->files); }
  std::vector<std::string> Undocumented() const { return FindUndocumented(sources_->files); }

 private:
  const std::string folder_;
  std::unique_ptr<Sources> sources_;
};

std::vector<std::string> Gone(const std::set<std::string>& released,
                              const std::set<std::string>& now) {
  std::vector<std::string> gone;
  std::set_difference(released.begin(), released.end(), now.begin(), now.end(),
                      std::back_inserter(gone));
  return gone;
}

// At a release: ROLLCALL_RELEASE_CONTRACTS=1 ./rollcall test -R contracts_test, and commit the
// file. Between releases a line may only be taken out of it by hand, together with the reason why
// no peer and no stored file can have used it.
TEST(ContractsTest, NothingThatWasReleasedIsGone) {
  const Sources sources(SourceDir() + "/proto");
  ASSERT_GE(sources.files.size(), 10u);
  const std::set<std::string> now = ListContract(sources.files);
  const std::string path = SourceDir() + "/tests/contracts/released.txt";
  if (std::getenv("ROLLCALL_RELEASE_CONTRACTS") != nullptr) {
    ASSERT_TRUE(WriteFileAtomically(path, absl::StrCat(absl::StrJoin(now, "\n"), "\n")).ok());
  }
  const absl::StatusOr<std::string> text = ReadFile(path);
  ASSERT_TRUE(text.ok()) << text.status();
  const std::set<std::string> released = absl::StrSplit(*text, '\n', absl::SkipEmpty());
  ASSERT_GT(released.size(), 300u);
  EXPECT_THAT(Gone(released, now), IsEmpty())
      << "A peer of the last release, or a file it wrote, depends on these. See the comment above.";
}

TEST(ContractsTest, EveryFieldAndRpcIsDocumented) {
  const Sources sources(SourceDir() + "/proto");
  EXPECT_THAT(FindUndocumented(sources.files), IsEmpty());
}

TEST(ListContractTest, EveryBreakingChangeTakesALineAway) {
  const std::string before =
      "message M { int32 a = 1; repeated string b = 2; optional int32 c = 3; map<string, M> d = "
      "4;\n"
      "  oneof o { int32 e = 5; } E f = 6; message N { bool g = 1; } }\n"
      "enum E { E_UNSPECIFIED = 0; E_ONE = 1; }\n"
      "service S { rpc R(M) returns (stream M); }\n";
  const std::set<std::string> released = OneFile(before).Listing();
  EXPECT_THAT(released,
              UnorderedElementsAre(
                  "message t.M", "message t.M.N", "field t.M.a = 1 int32",
                  "field t.M.b = 2 repeated string", "field t.M.c = 3 optional int32",
                  "field t.M.d = 4 map<string, t.M>", "field t.M.e = 5 int32 in o",
                  "field t.M.f = 6 t.E", "field t.M.N.g = 1 bool", "value t.E.E_UNSPECIFIED = 0",
                  "value t.E.E_ONE = 1", "rpc t.S.R t.M -> stream t.M"));
  const std::vector<std::pair<std::string, std::string>> breaking = {
      {"int32 a = 1;", ""},
      {"int32 a = 1;", "int32 a = 9;"},
      {"int32 a = 1;", "int64 a = 1;"},
      {"int32 a = 1;", "int32 renamed = 1;"},
      {"repeated string b", "string b"},
      {"optional int32 c", "int32 c"},
      {"map<string, M> d", "map<string, string> d"},
      {"oneof o { int32 e = 5; }", "int32 e = 5;"},
      {"bool g = 1;", ""},
      {" E_ONE = 1;", ""},
      {"E_ONE = 1;", "E_ONE = 2;"},
      {"rpc R(M) returns (stream M);", ""},
      {"returns (stream M)", "returns (M)"},
      {"R(M)", "R(stream M)"},
      {"R(M)", "R(M.N)"},
  };
  for (const auto& [from, to] : breaking) {
    std::string after = before;
    after.replace(after.find(from), from.size(), to);
    EXPECT_EQ(Gone(released, OneFile(after).Listing()).size(), 1u) << from << " -> " << to;
  }
  std::string grown = before;
  grown.replace(grown.find("int32 a"), 0, "int32 z = 7; ");
  EXPECT_THAT(Gone(released, OneFile(grown).Listing()), IsEmpty());
}

TEST(FindUndocumentedTest, WantsACommentOnFieldsAndRpcs) {
  const OneFile file(
      "message M {\n"
      "  // The a, and the b beside it.\n"
      "  int32 a = 1;\n"
      "  int32 b = 2;\n"
      "\n"
      "  int32 c = 3;\n"
      "  int32 d = 4;  // trailing\n"
      "}\n"
      "service S {\n"
      "  // Does r.\n"
      "  rpc R(M) returns (M);\n"
      "  rpc Q(M) returns (M);\n"
      "}\n");
  EXPECT_THAT(file.Undocumented(), ElementsAre("t.M.c", "t.S.Q"));
}

}  // namespace
}  // namespace rollcall::contracts
