#include "services/learner/learner.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/file.h"
#include "common/base/logging.h"
#include "common/base/peer_loss.h"
#include "common/base/status.h"
#include "common/config/algorithm_presets.h"
#include "common/config/run_config.h"
#include "common/config/yaml.h"
#include "common/model/identity.h"
#include "services/learner/batching/batch_bytes.h"
#include "services/learner/initial_model.h"
#include "services/learner/publish/lineage.h"
#include "services/learner/publish/numerics.h"
#include "services/learner/resume.h"
#include "services/learner/utilization.h"

namespace rollcall::learner {
namespace {

// The trainer of an evaluation holds weights and trains nothing, for which supervised training
// needs no more.
v1::RunConfig TrainerConfig(const v1::RunConfig& config) {
  v1::RunConfig trainer = config;
  if (config.stage() == v1::STAGE_EVAL) trainer.set_stage(v1::STAGE_SFT);
  return trainer;
}

}  // namespace

Learner::Learner(const v1::RunConfig& config, LearnerMetrics* metrics, RunControl* control,
                 std::function<void(std::shared_ptr<MetricsLog>)> on_metrics,
                 std::shared_ptr<Progress> progress)
    : config_(config),
      metrics_(metrics),
      control_(control),
      on_metrics_(std::move(on_metrics)),
      progress_(std::move(progress)),
      run_dir_(config::RunFolder(config)),
      checkpoints_(run_dir_ + "/checkpoints", config.learner().checkpoint().keep()) {}

absl::Status Learner::Run() {
  control_->SetPhase(v1::LEARNER_PHASE_STARTING);
  control_->SetRun(config_.stage() == v1::STAGE_EVAL ? 0 : config_.learner().steps(), run_dir_);
  control_->OnInterrupt([this](const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    if (stack_ != nullptr) stack_->Interrupt(status);
    if (references_ != nullptr) references_->Interrupt(status);
  });
  absl::Status status = LoadModelAndState();
  if (status.ok()) status = OpenRun();
  if (status.ok()) status = ReadData();
  if (status.ok() && config_.stage() != v1::STAGE_RL && config::NeedsReferenceService(config_)) {
    status = StartReferences();
  }
  if (status.ok()) status = StartRollouts();
  if (status.ok()) {
    status = config_.stage() == v1::STAGE_EVAL ? EvaluateOnly() : Train();
  }
  // A stop that came while services were awaited or prompts evaluated is no failure.
  if (absl::IsCancelled(status) && control_->stop_requested()) status = absl::OkStatus();
  if (stack_ != nullptr) stack_->Stop();
  if (references_ != nullptr) references_->Interrupt(absl::CancelledError("the run is over"));
  if (ranks_ != nullptr && !IsPeerLost(status)) {
    const absl::Status told = ranks_->End(std::string(status.message()));
    if (!told.ok()) LogWarning("not every rank was told of the end", {{"error", told}});
  }
  ranks_.reset();
  if (ledger_ != nullptr) status.Update(ledger_->Flush());
  if (coordinator_ != nullptr) control_->SetCounts(coordinator_->counts());
  control_->End(status);
  if (log_ != nullptr) log_->Close();
  return status;
}

absl::Status Learner::LoadModelAndState() {
  ROLLCALL_RETURN_IF_ERROR(MakeDirectories(run_dir_));
  const std::string uncorrected = config::UncorrectedSampling(config_.sampling());
  if (config_.stage() == v1::STAGE_RL && !uncorrected.empty()) {
    LogWarning("rollouts are sampled from another distribution than ratios and KL are taken of",
               {{"because", uncorrected}});
  }
  ROLLCALL_ASSIGN_OR_RETURN(tokenizer_, text::Tokenizer::Load(config_.model().path()));
  ROLLCALL_ASSIGN_OR_RETURN(model::Decoder decoder, LoadInitialModel(config_));
  ROLLCALL_ASSIGN_OR_RETURN(TrainerCompanions companions,
                            LoadCompanions(config_, decoder.config()));
  ROLLCALL_ASSIGN_OR_RETURN(process_group_, OpenProcessGroup(config_));
  ROLLCALL_ASSIGN_OR_RETURN(
      trainer_, Trainer::Create(TrainerConfig(config_), std::move(decoder), process_group_.get(),
                                Clock::Real(), std::move(companions)));
  trainer_->OnForward([this] { progress_->Advance(/*more_waits=*/true); });
  if (config_.stage() == v1::STAGE_EVAL) return absl::OkStatus();
  ReportTrained();
  ROLLCALL_RETURN_IF_ERROR(LoadCheckpoint());
  if (process_group_->size() == 1) return absl::OkStatus();
  ROLLCALL_RETURN_IF_ERROR(
      trainer_->ShareState(saved_step_ ? checkpoints_.FolderOf(*saved_step_) : ""));
  ranks_ = std::make_unique<RankLeader>(process_group_.get(), control_);
  return absl::OkStatus();
}

absl::Status Learner::LoadCheckpoint() {
  ROLLCALL_RETURN_IF_ERROR(CheckResumeMode(config_.learner().checkpoint().resume(),
                                           !checkpoints_.Steps().empty(), run_dir_));
  ROLLCALL_ASSIGN_OR_RETURN(std::optional<CheckpointStore::Loaded> loaded,
                            checkpoints_.LoadNewest(*trainer_));
  if (!loaded) return absl::OkStatus();
  resumed_ = std::move(loaded->record);
  saved_step_ = trainer_->step();
  control_->SetCheckpoint(loaded->folder);
  if (const auto now = model::FingerprintOf(trainer_->decoder());
      config_.numerics() != v1::NUMERICS_FAST && !SameNumerics(now, resumed_.numerics())) {
    LogWarning(
        "the checkpoint was computed with other numerics: the run goes on, but not with the "
        "bits it would have had",
        {{"checkpoint", Describe(resumed_.numerics())}, {"now", Describe(now)}});
  }
  for (const std::string& change : DescribeConfigChanges(resumed_, config_)) {
    LogWarning("configuration changed since the checkpoint", {{"change", change}});
  }
  LogInfo("resumed", {{"checkpoint", loaded->folder}, {"step", trainer_->step()}});
  return absl::OkStatus();
}

void Learner::ReportTrained() const {
  const model::Decoder& decoder = trainer_->decoder();
  int64_t trained = 0, optimizer_bytes = 0;
  for (const auto& parameter : decoder.trainable_parameters()) trained += parameter.tensor.numel();
  for (const auto& [name, tensor] : trainer_->optimizer().State()) {
    optimizer_bytes += static_cast<int64_t>(tensor.nbytes());
  }
  metrics_->trained_parameters.Set(static_cast<double>(trained));
  metrics_->optimizer_bytes.Set(static_cast<double>(optimizer_bytes));
  const model::LoraConfig* lora = decoder.lora();
  LogInfo("to be trained", {{"parameters", trained},
                            {"of", decoder.config().ParameterCount()},
                            {"adapter_rank", lora == nullptr ? 0 : lora->r},
                            {"optimizer_bytes", optimizer_bytes}});
}

absl::Status Learner::OpenRun() {
  const std::string config_path = run_dir_ + "/config.yaml";
  if (!std::filesystem::exists(config_path)) {
    ROLLCALL_RETURN_IF_ERROR(WriteFileAtomically(config_path, config::FormatYaml(config_)));
  }
  ROLLCALL_ASSIGN_OR_RETURN(lineage_, OpenLineage(run_dir_, config_.name()));
  if (!resumed_.version().run_id().empty() && resumed_.version().run_id() != lineage_.run_id()) {
    return absl::FailedPreconditionError(
        absl::StrCat(run_dir_, ": the checkpoint is of run ", resumed_.version().run_id(),
                     ", the lineage record of run ", lineage_.run_id()));
  }
  metrics_->lineage.Set(static_cast<double>(lineage_.lineage()));
  identity_ = {.run_id = lineage_.run_id(),
               .lineage = lineage_.lineage(),
               .architecture_hash = model::ArchitectureHash(trainer_->decoder().config()),
               .tokenizer_hash = ""};
  ROLLCALL_ASSIGN_OR_RETURN(identity_.tokenizer_hash, model::TokenizerHash(config_.model().path()));
  ROLLCALL_ASSIGN_OR_RETURN(log_, MetricsLog::Open(run_dir_ + "/metrics.jsonl", trainer_->step()));
  on_metrics_(log_);
  LogInfo("run opened", {{"run", lineage_.run_id()},
                         {"lineage", lineage_.lineage()},
                         {"step", trainer_->step()},
                         {"folder", run_dir_}});
  return absl::OkStatus();
}

CoordinatorOptions Learner::WhereToStart() const {
  CoordinatorOptions options;
  options.trained_steps = trainer_->step();
  options.first_group_id = resumed_.next_group_id();
  options.settled = resumed_.rollouts();
  options.observe_counts = [this](const v1::RolloutCounts& counts) {
    metrics_->SetCounts(counts);
    control_->SetCounts(counts);
  };
  return options;
}

absl::Status Learner::StartRollouts() {
  const auto context = static_cast<uint32_t>(trainer_->decoder().config().max_position_embeddings);
  const bool rl = config_.stage() == v1::STAGE_RL;
  // Supervised training evaluates where it is told of the services that this takes.
  const bool services =
      !config_.generator().addresses().empty() && !config_.reward().address().empty();
  const bool evaluates =
      !data_.evaluation.empty() && (services || config_.stage() != v1::STAGE_SFT);
  if (!rl && !evaluates) return absl::OkStatus();

  ROLLCALL_ASSIGN_OR_RETURN(PreparedVersionPtr version, Prepare());
  CoordinatorOptions start = WhereToStart();
  ROLLCALL_RETURN_IF_ERROR(OpenLedger(version->version, start));
  const model::Decoder& decoder = trainer_->decoder();
  ROLLCALL_ASSIGN_OR_RETURN(
      std::unique_ptr<RolloutStack> stack,
      RolloutStack::Start(config_,
                          {.version = identity_,
                           .numerics = model::FingerprintOf(decoder),
                           .vocab_size = static_cast<uint32_t>(decoder.config().vocab_size)},
                          tokenizer_, ledger_.get(), control_, metrics_));
  if (rl) {
    coordinator_ = stack->MakeCoordinator(std::move(start), DrawFrom(data_.prompts.get(), context));
    source_ = coordinator_;
  }
  if (evaluates) evaluator_ = stack->MakeEvaluator(data_.evaluation);
  {
    absl::MutexLock lock(&mutex_);
    stack_ = std::move(stack);
  }
  if (control_->interrupted()) {  // before there was anything to wake
    stack_->Interrupt(control_->failure().ok() ? absl::CancelledError("stopped")
                                               : control_->failure());
  }
  Publish(std::move(version));
  return stack_->AwaitServices();
}

absl::Status Learner::OpenLedger(const v1::PolicyVersion& version, CoordinatorOptions& options) {
  v1::LineageStart start;
  start.set_run_id(identity_.run_id);
  start.set_lineage(identity_.lineage);
  start.set_from_step(trainer_->step());
  start.set_content_hash(ContentHash(config_));
  start.set_time(lineage_.time());
  start.set_next_group_id(options.first_group_id);
  const std::string folder = run_dir_ + "/rollouts";
  if (config_.stage() == v1::STAGE_RL) {
    options.reusable = LoadReusableGroups(folder, options.first_group_id, start.content_hash(),
                                          version.manifest_hash());
  }
  if (!options.reusable.empty()) {
    LogInfo("finished groups are reused", {{"groups", options.reusable.size()}});
  }
  ROLLCALL_ASSIGN_OR_RETURN(ledger_, Ledger::Open(folder, start));
  return absl::OkStatus();
}

absl::StatusOr<PreparedVersionPtr> Learner::Prepare() const {
  ROLLCALL_ASSIGN_OR_RETURN(WeightSnapshotPtr snapshot, trainer_->Snapshot());
  return PrepareVersion(identity_, std::move(snapshot));
}

void Learner::Publish(PreparedVersionPtr version) {
  published_step_ = trainer_->step();
  published_bytes_ = version->TotalBytes();
  control_->SetVersion(version->version);
  stack_->Publish(std::move(version));
}

absl::Status Learner::PublishCurrent() {
  if (published_step_ == trainer_->step()) return absl::OkStatus();
  ROLLCALL_ASSIGN_OR_RETURN(PreparedVersionPtr version, Prepare());
  Publish(std::move(version));
  return absl::OkStatus();
}

bool Learner::EvaluationDue(uint64_t step) const {
  if (evaluator_ == nullptr && !data_.held_out_pairs) return false;
  if (evaluated_step_ == step) return false;
  const uint64_t every = config_.evaluation().every_steps();
  if (step == 0) return config_.evaluation().at_start();
  return step == config_.learner().steps() || (every > 0 && step % every == 0);
}

absl::Status Learner::Evaluate(StepValues& values) {
  const uint64_t step = trainer_->step();
  control_->SetPhase(v1::LEARNER_PHASE_EVALUATING);
  const absl::Time start = absl::Now();
  if (data_.held_out_pairs) {
    ROLLCALL_ASSIGN_OR_RETURN(evaluation_, trainer_->EvaluatePairs(*data_.held_out_pairs));
  } else {
    ROLLCALL_RETURN_IF_ERROR(PublishCurrent());
    ROLLCALL_ASSIGN_OR_RETURN(evaluation_, evaluator_->Run(step));
  }
  evaluation_["time/evaluation_seconds"] = absl::ToDoubleSeconds(absl::Now() - start);
  evaluated_step_ = step;
  values.insert(evaluation_.begin(), evaluation_.end());
  const char* figure = data_.held_out_pairs ? "eval/margin" : "eval/reward/mean";
  LogInfo("evaluated", {{"step", step},
                        {data_.held_out_pairs ? "margin" : "reward", ValueOf(evaluation_, figure)},
                        {"accuracy", ValueOf(evaluation_, "eval/accuracy")},
                        {"seconds", absl::Now() - start}});
  return absl::OkStatus();
}

absl::Status Learner::EvaluateOnly() {
  if (evaluator_ == nullptr) {
    return absl::InvalidArgumentError("data.evaluation: stage eval needs held-out prompts");
  }
  StepValues values;
  ROLLCALL_RETURN_IF_ERROR(Evaluate(values));
  return log_->Append(trainer_->step(), values);
}

absl::Status Learner::Train() {
  const uint64_t total = config_.learner().steps();
  if (trainer_->step() == 0 && EvaluationDue(0)) {
    StepValues values;
    ROLLCALL_RETURN_IF_ERROR(Evaluate(values));
    ROLLCALL_RETURN_IF_ERROR(log_->Append(0, values));
  }
  metrics_->step.Set(static_cast<double>(trainer_->step()));
  while (trainer_->step() < total) {
    const absl::StatusOr<bool> go_on = Step(trainer_->step() + 1);
    if (!go_on.ok()) return go_on.status();
    if (!*go_on) return Finish(/*completed=*/!control_->stop_requested());
  }
  return Finish(/*completed=*/true);
}

absl::StatusOr<bool> Learner::Step(uint64_t step) {
  control_->SetPhase(v1::LEARNER_PHASE_TRAINING,
                     coordinator_ != nullptr ? absl::StrCat("the rollouts of step ", step)
                     : references_ != nullptr
                         ? absl::StrCat("the reference's log-probs of step ", step)
                         : "");
  const absl::Time start = absl::Now();
  absl::StatusOr<TrainBatch> batch = source_->Next(step);
  if (!batch.ok()) {
    if (absl::IsCancelled(batch.status()) && control_->stop_requested()) return false;
    if (absl::IsOutOfRange(batch.status())) return false;
    SaveWhatThereIs(batch.status());
    return batch.status();
  }
  control_->SetPhase(v1::LEARNER_PHASE_TRAINING);
  for (auto go = control_->AwaitGo(); go != RunControl::Go::kStep; go = control_->AwaitGo()) {
    if (go == RunControl::Go::kSave) {
      ROLLCALL_RETURN_IF_ERROR(AnswerCheckpointRequests());
      control_->SetPhase(v1::LEARNER_PHASE_TRAINING);
      continue;
    }
    if (!control_->failure().ok()) {
      SaveWhatThereIs(control_->failure());
      return control_->failure();
    }
    return false;
  }
  const absl::Time batched = absl::Now();
  const BatchWork work = WorkOf(*batch, trainer_->decoder().config());
  progress_->Begin();
  absl::StatusOr<StepReport> report = TrainOnRanks(*std::move(batch));
  progress_->Advance(/*more_waits=*/false);
  ROLLCALL_RETURN_IF_ERROR(report.status());
  const absl::Time trained = absl::Now();
  StepValues values = ValuesOf(*report);
  values["time/batch_seconds"] = absl::ToDoubleSeconds(batched - start);
  values["time/train_seconds"] = absl::ToDoubleSeconds(trained - batched);
  values["time/step_seconds"] = absl::ToDoubleSeconds(trained - start);
  values["tokens_per_second"] =
      work.tokens / std::max(1e-9, absl::ToDoubleSeconds(trained - start));
  AddUtilization(config_, work, values);
  metrics_->step_seconds.Observe(absl::ToDoubleSeconds(trained - start));
  ROLLCALL_RETURN_IF_ERROR(AfterStep(*report, std::move(values)));
  return true;
}

absl::StatusOr<StepReport> Learner::TrainOnRanks(TrainBatch batch) {
  if (ranks_ == nullptr) return trainer_->TrainStep(std::move(batch));
  ROLLCALL_RETURN_IF_ERROR(ranks_->Begin(RankCommand::kTrain, EncodeBatch(batch)));
  ROLLCALL_ASSIGN_OR_RETURN(StepReport report, trainer_->TrainStep(std::move(batch)));
  ranks_->Done();
  return report;
}

absl::Status Learner::AfterStep(const StepReport& report, StepValues values) {
  const uint64_t step = report.step;
  if (coordinator_ != nullptr) {
    ROLLCALL_RETURN_IF_ERROR(PublishCurrent());
    values["publish/bytes"] = static_cast<double>(published_bytes_);
    ROLLCALL_RETURN_IF_ERROR(coordinator_->StepTrained(step));
    AddCounts(coordinator_->counts(), values);
  } else {
    v1::PolicyVersion version;
    version.set_run_id(identity_.run_id);
    version.set_lineage(identity_.lineage);
    version.set_step(step);
    control_->SetVersion(version);
  }
  if (EvaluationDue(step)) {
    const absl::Status evaluated = Evaluate(values);
    // Stopped meanwhile: the step itself is done and on record.
    if (!evaluated.ok() && !(absl::IsCancelled(evaluated) && control_->stop_requested())) {
      SaveWhatThereIs(evaluated);
      return evaluated;
    }
  }
  ROLLCALL_RETURN_IF_ERROR(log_->Append(step, values));
  Report(step, values);
  const uint64_t every = config_.learner().checkpoint().every_steps();
  if (every > 0 && step % every == 0) ROLLCALL_RETURN_IF_ERROR(SaveCheckpoint());
  return AnswerCheckpointRequests();
}

void Learner::Report(uint64_t step, const StepValues& values) {
  metrics_->step.Set(static_cast<double>(step));
  metrics_->last_step_time.SetToCurrentTime();
  metrics_->SetStepValues(values);
  if (coordinator_ != nullptr) {
    LogInfo("step", {{"step", step},
                     {"of", config_.learner().steps()},
                     {"reward", ValueOf(values, "reward/mean")},
                     {"kl", ValueOf(values, "kl")},
                     {"length", ValueOf(values, "length/mean")},
                     {"logprob_gap", ValueOf(values, "logprob_gap")},
                     {"dropped", ValueOf(values, "rollout/dropped_groups")},
                     {"seconds", ValueOf(values, "time/step_seconds")}});
  } else {
    LogInfo("step", {{"step", step},
                     {"of", config_.learner().steps()},
                     {"loss", ValueOf(values, "loss")},
                     {"seconds", ValueOf(values, "time/step_seconds")}});
  }
}

absl::Status Learner::CheckNotFenced() const {
  return CheckNewestLineage(run_dir_, identity_.run_id, identity_.lineage);
}

absl::Status Learner::SaveCheckpoint() {
  const uint64_t step = trainer_->step();
  if (saved_step_ == step) return absl::OkStatus();
  control_->SetPhase(v1::LEARNER_PHASE_SAVING);
  ROLLCALL_RETURN_IF_ERROR(CheckNotFenced());
  const absl::Time start = absl::Now();
  if (ledger_ != nullptr) ROLLCALL_RETURN_IF_ERROR(ledger_->Flush());
  v1::LearnerCheckpoint record;
  record.mutable_version()->set_run_id(identity_.run_id);
  record.mutable_version()->set_lineage(identity_.lineage);
  record.mutable_version()->set_step(step);
  if (coordinator_ != nullptr) {
    record.set_next_group_id(coordinator_->next_group_id());
    *record.mutable_rollouts() = coordinator_->settled();
    *record.mutable_data() = data_.prompts->CursorAt(record.next_group_id());
  }
  record.set_config_hash(TrainingConfigHash(config_));
  record.set_config_yaml(config::FormatYaml(config_));
  if (evaluated_step_ == step) {
    record.mutable_evaluation()->insert(evaluation_.begin(), evaluation_.end());
  }
  if (ranks_ != nullptr) ROLLCALL_RETURN_IF_ERROR(ranks_->Begin(RankCommand::kSave));
  ROLLCALL_ASSIGN_OR_RETURN(const std::string folder,
                            checkpoints_.Save(std::move(record), *trainer_));
  if (ranks_ != nullptr) ranks_->Done();
  saved_step_ = step;
  control_->SetCheckpoint(folder);
  metrics_->checkpoint_seconds.Observe(absl::ToDoubleSeconds(absl::Now() - start));
  metrics_->last_checkpoint_time.SetToCurrentTime();
  LogInfo("checkpoint saved", {{"folder", folder}, {"seconds", absl::Now() - start}});
  return absl::OkStatus();
}

absl::Status Learner::AnswerCheckpointRequests() {
  std::vector<RunControl::CheckpointDone> requests = control_->TakeCheckpointRequests();
  if (requests.empty()) return absl::OkStatus();
  const absl::Status saved = SaveCheckpoint();
  for (const RunControl::CheckpointDone& done : requests) {
    if (saved.ok()) {
      done(checkpoints_.FolderOf(trainer_->step()));
    } else {
      done(saved);
    }
  }
  return saved;
}

void Learner::SaveWhatThereIs(const absl::Status& failure) {
  // Fenced: the folder belongs to a later lineage. Without a rank its part of the optimizer is gone.
  if (trainer_->step() == 0 || absl::IsFailedPrecondition(failure) || IsPeerLost(failure)) return;
  if (const absl::Status saved = SaveCheckpoint(); !saved.ok()) {
    LogError("no checkpoint could be saved", {{"error", saved}});
  }
}

absl::Status Learner::Finish(bool completed) {
  // A run stopped before its first step has nothing to go on from.
  if (trainer_->step() > 0) ROLLCALL_RETURN_IF_ERROR(SaveCheckpoint());
  if (!completed) return absl::OkStatus();
  control_->SetPhase(v1::LEARNER_PHASE_SAVING);
  ROLLCALL_RETURN_IF_ERROR(CheckNotFenced());
  ROLLCALL_RETURN_IF_ERROR(trainer_->ExportModel(run_dir_ + "/final"));
  if (trainer_->decoder().lora() != nullptr && config_.model().lora().merge_on_export()) {
    ROLLCALL_RETURN_IF_ERROR(trainer_->ExportMerged(run_dir_ + "/final_merged"));
  }
  if (trainer_->critic() != nullptr) {
    ROLLCALL_RETURN_IF_ERROR(trainer_->ExportCritic(run_dir_ + "/final_critic"));
  }
  LogInfo("training finished", {{"steps", trainer_->step()}, {"model", run_dir_ + "/final"}});
  return absl::OkStatus();
}

}  // namespace rollcall::learner
