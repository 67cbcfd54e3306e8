#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/shutdown.h"
#include "services/cli/commands/commands.h"
#include "services/cli/commands/reporting.h"
#include "services/cli/demo/demo.h"

namespace rollcall::cli {

void AddDemoCommand(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<DemoOptions>();
  CLI::App* command = app.add_subcommand("demo",
                                         "Train a small model by SFT and GRPO through the real "
                                         "services, in a few minutes; nothing to download");
  command->add_option("--dir", options->folder,
                      "Folder for everything it makes (default: runs/demo-<time>)");
  command->add_option("--seed", options->seed, "Seed of data, initialisation and sampling")
      ->capture_default_str();
  command->add_flag(
      "--json", options->json,
      "Print one line: accuracy_sft, accuracy_rl, seconds, steps, rollouts, max_logprob_gap");
  command->add_option("--set", options->sets, "Override a field of both stages; repeatable")
      ->allow_extra_args(false);
  command
      ->add_option("--sft-set", options->sft_sets, "Override a field of the SFT stage; repeatable")
      ->allow_extra_args(false);
  command
      ->add_option("--rl-set", options->rl_sets, "Override a field of the GRPO stage; repeatable")
      ->allow_extra_args(false);
  command->callback([options, &exit_code] {
    if (options->folder.empty()) {
      options->folder = absl::StrCat(
          "runs/demo-", absl::FormatTime("%Y%m%d-%H%M%S", absl::Now(), absl::LocalTimeZone()));
    }
    Shutdown shutdown;
    exit_code = Report(RunDemo(*options, shutdown));
  });
}

}  // namespace rollcall::cli
