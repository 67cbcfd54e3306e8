#include "services/learner/ranks/gloo_process_group.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "common/base/peer_loss.h"
#include "services/learner/ranks/rank_processes.h"
#include "services/learner/ranks/rendezvous.h"
#include "services/learner/trainer/flat_shards.h"

namespace rollcall::learner {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::RankResult;
using testing::RunRanks;

std::string Text(const at::Tensor& tensor) {
  const at::Tensor values = tensor.to(at::kDouble).contiguous();
  return absl::StrJoin(std::vector<double>(values.const_data_ptr<double>(),
                                           values.const_data_ptr<double>() + values.numel()),
                       " ");
}

void ExpectAll(const std::vector<RankResult>& results, const std::string& expected) {
  for (const RankResult& result : results) EXPECT_EQ(result.returned, expected);
}

TEST(GlooProcessGroup, SumsInTheOrderOfTheRanks) {
  // In float32 (1e8 + 1) - 1e8 is 0, and 1 in any other order.
  ExpectAll(RunRanks(3,
                     [](ProcessGroup& group) {
                       const float own[] = {1e8f, 1.0f, -1e8f};
                       at::Tensor sum = at::full({2}, own[group.rank()]);
                       const absl::Status status = group.AllReduceSum(sum);
                       return status.ok() ? Text(sum) : status.ToString();
                     }),
            "0 0");
}

TEST(GlooProcessGroup, GathersAndBroadcastsBytes) {
  ExpectAll(RunRanks(3,
                     [](ProcessGroup& group) -> std::string {
                       const auto all = group.AllGather(std::string(group.rank(), 'x'));
                       if (!all.ok()) return all.status().ToString();
                       std::string bytes = group.rank() == 0 ? "from 0" : "mine";
                       if (const auto status = group.Broadcast(bytes); !status.ok()) {
                         return status.ToString();
                       }
                       return absl::StrCat(absl::StrJoin(*all, ","), " ", bytes);
                     }),
            ",x,xx from 0");
}

// Shards of 21 elements of two tensors on 2 ranks: 16 and 5.
std::string Shards(ProcessGroup& group) {
  const FlatShards shards({10, 11}, group.size());
  const int rank = group.rank();
  const std::vector<at::Tensor> gradients = {at::full({10}, 1.0f + static_cast<float>(rank)),
                                             at::arange(11, at::kFloat)};
  const auto sum = ReduceScatter(group, shards, gradients);
  if (!sum.ok()) return sum.status().ToString();
  std::vector<at::Tensor> whole = {at::zeros({2, 5}), at::zeros({11})};
  int64_t at = 0;
  for (const FlatShards::Piece& piece : shards.Pieces(rank)) {
    View(whole[piece.tensor], piece).copy_(sum->slice(0, at, at + piece.end - piece.begin));
    at += piece.end - piece.begin;
  }
  if (auto status = AllGatherShards(group, shards, whole); !status.ok()) return status.ToString();
  // To rank 0 and back, doubled there.
  std::vector<at::Tensor> gathered = {at::zeros({2, 5}), at::zeros({11})};
  if (auto status = GatherShards(group, shards, *sum, gathered); !status.ok()) {
    return status.ToString();
  }
  for (at::Tensor& tensor : gathered) tensor.mul_(2);
  const at::Tensor own = at::zeros({shards.size(rank)});
  if (auto status = ScatterShards(group, shards, gathered, own); !status.ok()) {
    return status.ToString();
  }
  const bool doubled = own.equal(sum->mul(2));
  return absl::StrCat(Text(whole[0]), ";", Text(whole[1]), doubled ? ";doubled" : ";not doubled");
}

TEST(FlatShards, ReduceAndGatherGiveTheWholeSum) {
  ExpectAll(RunRanks(2, Shards), "3 3 3 3 3 3 3 3 3 3;0 2 4 6 8 10 12 14 16 18 20;doubled");
  // More ranks than pieces: the third and fourth have nothing.
  ExpectAll(RunRanks(4, Shards),
            "10 10 10 10 10 10 10 10 10 10;0 4 8 12 16 20 24 28 32 36 40;doubled");
}

TEST(FlatShards, CutsAtMultiplesOfSixteen) {
  const FlatShards shards({100, 3, 30}, 3);
  EXPECT_EQ(shards.size(0), 48);
  EXPECT_EQ(shards.size(1), 48);
  EXPECT_EQ(shards.size(2), 37);
  const auto pieces = shards.Pieces(2);
  ASSERT_EQ(pieces.size(), 3u);
  EXPECT_EQ(pieces[0].begin, 96);
  EXPECT_EQ(pieces[1].end, 3);
  EXPECT_EQ(pieces[2].end, 30);
}

TEST(GlooProcessGroup, ADeadRankIsNamedByTheOthersAtOnce) {
  const auto results = RunRanks(3, [](ProcessGroup& group) -> std::string {
    const absl::Time start = absl::Now();
    // Once this has an answer all are connected.
    absl::Status status = group.AllGather("here").status();
    if (group.rank() == 1) raise(SIGKILL);
    while (status.ok()) status = group.AllGather("step").status();
    // Later calls fail as well, without waiting.
    const bool again = IsPeerLost(group.AllGather("more").status());
    return absl::StrCat(status.message(), IsPeerLost(status) && again ? "; lost" : "",
                        absl::Now() - start < absl::Seconds(20) ? "; soon" : "; late");
  });
  ASSERT_EQ(results.size(), 3u);
  EXPECT_EQ(results[1].signal, SIGKILL);
  EXPECT_EQ(results[0].signal, 0);
  EXPECT_EQ(results[2].signal, 0);
  EXPECT_THAT(results[0].returned,
              AllOf(HasSubstr("rank 0 of 3 lost rank"), HasSubstr("; lost; soon")));
  EXPECT_THAT(results[2].returned,
              AllOf(HasSubstr("rank 2 of 3 lost rank"), HasSubstr("; lost; soon")));
}

TEST(GlooProcessGroup, ARankThatHangsIsGivenUpAfterTheTimeout) {
  int release[2];
  ASSERT_EQ(pipe(release), 0);
  const auto results = RunRanks(
      2,
      [&](ProcessGroup& group) -> std::string {
        char byte = 0;
        if (group.rank() == 1) return read(release[0], &byte, 1) == 1 ? "released" : "not released";
        const absl::Time start = absl::Now();
        const absl::Status status = group.AllGather("step").status();
        const bool waited = absl::Now() - start >= absl::Milliseconds(400);
        const bool released = write(release[1], &byte, 1) == 1;
        return absl::StrCat(status.message(), IsPeerLost(status) && waited ? "; gave up" : "",
                            released ? "" : "; not released");
      },
      absl::Milliseconds(500));
  EXPECT_THAT(results[0].returned,
              AllOf(HasSubstr("rank 0 of 2 lost rank 1: "), HasSubstr("; gave up")));
  EXPECT_EQ(results[1].returned, "released");
}

TEST(ConnectGloo, SaysWhatIsWrongWithTheRendezvous) {
  EXPECT_EQ(ConnectGloo({.size = 2, .rendezvous = "nowhere"}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ConnectGloo({.size = 2, .rendezvous = "localhost:70000"}).status().code(),
            absl::StatusCode::kInvalidArgument);
  // TEST-NET-1: no address of this machine.
  const auto foreign = ConnectGloo({.size = 2, .rendezvous = "192.0.2.1:29500"});
  EXPECT_TRUE(IsPeerLost(foreign.status())) << foreign.status();
}

TEST(ConnectGloo, GivesUpOnRanksThatDoNotCome) {
  const auto results = RunRanks(1, [](ProcessGroup&) {
    const auto group = ConnectGloo({.rank = 0,
                                    .size = 2,
                                    .rendezvous = testing::FreeLoopbackAddress(),
                                    .connect_timeout = absl::Milliseconds(500)});
    return absl::StrCat(group.status().message(), IsPeerLost(group.status()) ? "; lost" : "");
  });
  EXPECT_THAT(results[0].returned,
              AllOf(HasSubstr("rank 0 of 2: not all ranks came"), HasSubstr("; lost")));
}

// Whoever can reach the port can take part, so a local run listens on loopback alone.
TEST(Rendezvous, ListensAtItsAddressAlone) {
  const std::string address = testing::FreeLoopbackAddress();
  const auto rendezvous = ResolveRendezvous(address);
  ASSERT_TRUE(rendezvous.ok()) << rendezvous.status();
  EXPECT_EQ(rendezvous->own_address, "127.0.0.1");
  const auto listening = ListenAt(*rendezvous);
  ASSERT_TRUE(listening.ok()) << listening.status();
  sockaddr_in bound = {};
  socklen_t length = sizeof(bound);
  ASSERT_EQ(getsockname(*listening, reinterpret_cast<sockaddr*>(&bound), &length), 0);
  EXPECT_EQ(ntohl(bound.sin_addr.s_addr), INADDR_LOOPBACK);
  EXPECT_TRUE(IsPeerLost(ListenAt(*rendezvous).status()));
  close(*listening);
}

}  // namespace
}  // namespace rollcall::learner
