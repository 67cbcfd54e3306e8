#include <gmock/gmock.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "common/base/file.h"
#include "common/config/yaml.h"
#include "services/learner/metrics_log.h"
#include "services/learner/resume.h"
#include "services/learner/run_control.h"
#include "services/learner/service.h"

namespace rollcall::learner {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

TEST(RunControlTest, PauseHoldsTheNextStepUntilResume) {
  RunControl control;
  control.SetPhase(v1::LEARNER_PHASE_TRAINING);
  EXPECT_EQ(control.AwaitGo(), RunControl::Go::kStep);
  control.Pause();
  absl::Notification going;
  std::thread trainer([&] {
    EXPECT_EQ(control.AwaitGo(), RunControl::Go::kSave);
    for (const auto& done : control.TakeCheckpointRequests()) done(std::string("folder"));
    EXPECT_EQ(control.AwaitGo(), RunControl::Go::kStep);
    going.Notify();
  });
  // A checkpoint is written while paused, and does not end the pause.
  absl::Notification saved;
  control.RequestCheckpoint([&](const absl::StatusOr<std::string>& folder) {
    EXPECT_EQ(folder.value_or(""), "folder");
    saved.Notify();
  });
  saved.WaitForNotification();
  EXPECT_FALSE(going.WaitForNotificationWithTimeout(absl::Milliseconds(50)));
  EXPECT_EQ(control.status().phase(), v1::LEARNER_PHASE_PAUSED);
  control.Resume();
  trainer.join();
  EXPECT_EQ(control.status().phase(), v1::LEARNER_PHASE_TRAINING);
}

TEST(RunControlTest, StopAndFailInterruptOnce) {
  for (const bool fail : {false, true}) {
    RunControl control;
    std::vector<absl::Status> interrupts;
    control.OnInterrupt([&](const absl::Status& status) { interrupts.push_back(status); });
    control.Pause();
    if (fail) {
      control.Fail(absl::FailedPreconditionError("fenced"));
      control.Fail(absl::InternalError("later"));
      EXPECT_EQ(control.failure().message(), "fenced");
    } else {
      control.Stop("SIGTERM");
      control.Stop("again");
      EXPECT_TRUE(control.stop_requested());
    }
    ASSERT_THAT(interrupts, SizeIs(1));
    EXPECT_EQ(interrupts[0].code(),
              fail ? absl::StatusCode::kFailedPrecondition : absl::StatusCode::kCancelled);
    EXPECT_EQ(control.AwaitGo(), RunControl::Go::kEnd);
  }
}

TEST(RunControlTest, CheckpointsAreRefusedBeforeTheStartAndAfterTheEnd) {
  RunControl control;
  std::vector<absl::StatusCode> answers;
  const auto ask = [&] {
    control.RequestCheckpoint([&](const absl::StatusOr<std::string>& folder) {
      answers.push_back(folder.status().code());
    });
  };
  ask();
  control.SetPhase(v1::LEARNER_PHASE_TRAINING);
  ask();
  EXPECT_THAT(answers, SizeIs(1));
  control.End(absl::AbortedError("no group left"));
  ask();
  EXPECT_THAT(answers, ElementsAre(absl::StatusCode::kFailedPrecondition,
                                   absl::StatusCode::kFailedPrecondition,
                                   absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(control.status().phase(), v1::LEARNER_PHASE_FAILED);
  EXPECT_EQ(control.status().failure(), "no group left");
}

class MetricsLogTest : public ::testing::Test {
 protected:
  MetricsLogTest()
      : folder_(absl::StrCat(::testing::TempDir(), "/metrics_log_", getpid())),
        path_(folder_ + "/metrics.jsonl") {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  ~MetricsLogTest() override { std::filesystem::remove_all(folder_); }

  std::vector<uint64_t> StepsOf(const MetricsLog& log) const {
    std::vector<uint64_t> steps;
    for (size_t i = 0; i < log.size(); ++i) steps.push_back(log.At(i).step());
    return steps;
  }

  const std::string folder_;
  const std::string path_;
};

TEST_F(MetricsLogTest, AResumedRunDropsTheStepsItTrainsAgainAndATornLine) {
  {
    auto log = MetricsLog::Open(path_, 0);
    ASSERT_TRUE(log.ok()) << log.status();
    for (uint64_t step = 1; step <= 5; ++step) {
      ASSERT_TRUE((*log)->Append(step, {{"reward/mean", 0.5 * static_cast<double>(step)}}).ok());
    }
  }
  std::ofstream(path_, std::ios::app) << "{\"step\":6,\"rew";
  const auto log = MetricsLog::Open(path_, 3);
  ASSERT_TRUE(log.ok());
  EXPECT_THAT(StepsOf(**log), ElementsAre(1, 2, 3));
  EXPECT_EQ((*log)->At(2).values().at("reward/mean"), 1.5);
  EXPECT_EQ((*log)->IndexOf(2), 1u);
  ASSERT_TRUE((*log)->Append(4, {{"kl", std::numeric_limits<double>::quiet_NaN()}}).ok());
  const std::string text = *ReadFile(path_);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4);
  EXPECT_THAT(text, HasSubstr("\"kl\":null"));
  EXPECT_THAT(StepsOf(**MetricsLog::Open(path_, 0)), ElementsAre());
}

class LearnerRpcServiceTest : public MetricsLogTest {
 protected:
  LearnerRpcServiceTest()
      : service_(&control_),
        server_(grpc::ServerBuilder().RegisterService(&service_).BuildAndStart()),
        stub_(v1::Learner::NewStub(server_->InProcessChannel({}))),
        log_(*MetricsLog::Open(path_, 0)) {}
  ~LearnerRpcServiceTest() override {
    log_->Close();
    server_->Shutdown();
  }

  RunControl control_;
  LearnerRpcService service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::Learner::Stub> stub_;
  std::shared_ptr<MetricsLog> log_;
};

TEST_F(LearnerRpcServiceTest, AWatcherGetsThePastThenThePresentThenTheEnd) {
  service_.SetMetricsLog(log_);
  for (uint64_t step = 1; step <= 3; ++step) ASSERT_TRUE(log_->Append(step, {{"x", 1}}).ok());
  grpc::ClientContext context;
  v1::WatchMetricsRequest request;
  request.set_from_step(2);
  const auto reader = stub_->WatchMetrics(&context, request);
  v1::StepMetrics metrics;
  ASSERT_TRUE(reader->Read(&metrics));
  EXPECT_EQ(metrics.step(), 2u);
  ASSERT_TRUE(reader->Read(&metrics));
  EXPECT_EQ(metrics.step(), 3u);
  ASSERT_TRUE(log_->Append(4, {{"x", 4}}).ok());
  ASSERT_TRUE(reader->Read(&metrics));
  EXPECT_EQ(metrics.values().at("x"), 4);
  ASSERT_TRUE(log_->Append(5, {}).ok());
  log_->Close();
  ASSERT_TRUE(reader->Read(&metrics));
  EXPECT_EQ(metrics.step(), 5u);
  EXPECT_FALSE(reader->Read(&metrics));
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(LearnerRpcServiceTest, AWatcherThatReadsNothingIsCutAndOthersLiveOn) {
  service_.SetMetricsLog(log_);
  grpc::ClientContext context;
  const auto reader = stub_->WatchMetrics(&context, {});
  ASSERT_TRUE(log_->Append(1, {}).ok());
  v1::StepMetrics metrics;
  ASSERT_TRUE(reader->Read(&metrics));
  // Large enough to fill every buffer between the two.
  const std::map<std::string, double> values = [] {
    std::map<std::string, double> many;
    for (int i = 0; i < 200; ++i) many[absl::StrCat(std::string(100, 'n'), i)] = i;
    return many;
  }();
  for (uint64_t step = 2; step < 1200; ++step) ASSERT_TRUE(log_->Append(step, values).ok());
  uint64_t read = 1;
  while (reader->Read(&metrics)) ++read;
  EXPECT_EQ(reader->Finish().error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_LT(read, 1199u);
  // It may come back for the rest.
  grpc::ClientContext again;
  v1::WatchMetricsRequest request;
  request.set_from_step(read + 1);
  const auto second = stub_->WatchMetrics(&again, request);
  ASSERT_TRUE(second->Read(&metrics));
  EXPECT_EQ(metrics.step(), read + 1);
  again.TryCancel();
  second->Finish();
}

TEST_F(LearnerRpcServiceTest, SteersTheRun) {
  control_.SetPhase(v1::LEARNER_PHASE_TRAINING);
  v1::DataCounts rows;
  rows.set_used(5);
  rows.set_skipped(2);
  control_.SetDataCounts(rows);
  v1::LearnerStatus status;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->GetStatus(&context, {}, &status).ok());
    EXPECT_EQ(status.phase(), v1::LEARNER_PHASE_TRAINING);
    EXPECT_EQ(status.data().skipped(), 2u);
  }
  {
    grpc::ClientContext early;
    v1::StepMetrics metrics;
    EXPECT_EQ(stub_->WatchMetrics(&early, {})->Finish().error_code(), grpc::UNAVAILABLE);
  }
  std::thread trainer([&] {
    // As the main loop between two steps.
    while (true) {
      const RunControl::Go go = control_.AwaitGo();
      for (const auto& done : control_.TakeCheckpointRequests()) done(std::string("step-7"));
      if (go == RunControl::Go::kEnd) return;
    }
  });
  v1::SaveCheckpointResponse saved;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->SaveCheckpoint(&context, {}, &saved).ok());
    EXPECT_EQ(saved.checkpoint_dir(), "step-7");
  }
  {
    grpc::ClientContext context;
    v1::StopRequest request;
    request.set_reason("enough");
    ASSERT_TRUE(stub_->Stop(&context, request, &status).ok());
  }
  trainer.join();
}

v1::RunConfig Config() {
  v1::RunConfig config;
  const std::vector<std::string> sets = {"model.path=m", "learner.optimizer.lr=0.001"};
  EXPECT_TRUE(config::LoadYaml("", sets, &config).ok());
  return config;
}

TEST(ResumeTest, ChangesThatTrainAnotherModelAreNamedFieldByField) {
  v1::LearnerCheckpoint checkpoint;
  checkpoint.set_config_hash(TrainingConfigHash(Config()));
  checkpoint.set_config_yaml(config::FormatYaml(Config()));
  EXPECT_TRUE(DescribeConfigChanges(checkpoint, Config()).empty());

  v1::RunConfig moved = Config();
  moved.mutable_learner()->set_threads(7);
  moved.mutable_learner()->set_listen("unix:/elsewhere");
  moved.mutable_generator()->add_addresses("unix:/generator");
  moved.mutable_reward()->set_address("unix:/reward");
  EXPECT_TRUE(DescribeConfigChanges(checkpoint, moved).empty());

  v1::RunConfig changed = Config();
  changed.mutable_learner()->mutable_optimizer()->set_lr(0.5f);
  changed.set_seed(9);
  const auto changes = DescribeConfigChanges(checkpoint, changed);
  ASSERT_THAT(changes, SizeIs(2));
  EXPECT_THAT(changes[0], HasSubstr("seed"));
  EXPECT_THAT(changes[1], HasSubstr("learner.optimizer.lr: 0.001 -> 0.5"));
}

TEST(ResumeTest, ModesAllowWhatTheySay) {
  EXPECT_TRUE(CheckResumeMode(v1::RESUME_MODE_AUTO, true, "run").ok());
  EXPECT_TRUE(CheckResumeMode(v1::RESUME_MODE_AUTO, false, "run").ok());
  EXPECT_TRUE(CheckResumeMode(v1::RESUME_MODE_NEVER, false, "run").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(CheckResumeMode(v1::RESUME_MODE_NEVER, true, "run")));
  EXPECT_TRUE(CheckResumeMode(v1::RESUME_MODE_REQUIRED, true, "run").ok());
  EXPECT_TRUE(absl::IsNotFound(CheckResumeMode(v1::RESUME_MODE_REQUIRED, false, "run")));
}

}  // namespace
}  // namespace rollcall::learner
