#!/usr/bin/env python3
"""Stage rlaif on a language whose principle a rule can check (manners.py): does the policy come to follow it?

For each seed a policy, a critic and a judge are trained by SFT; then the chain runs to DPO and, from the same preferences,
to a reward model and PPO. Agreement is the share of answers to held-out prompts that the rule accepts, sampled at
temperature 1 (128 prompts, 4 samples each; one standard error is about 2 points). Finished runs are kept: run it again and
it goes on, also in the middle of a step.

  ./rollcall bench rlaif                            seeds 0 1 2, into runs/bench-rlaif
  ./rollcall bench rlaif --seeds 0 --train dpo

Writes rlaif.md and rlaif.json into the folder. Exits 1 when a judge names the better of two held-out answers in less than
--least-judge of the cases, or a stage does not raise the agreement.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE.parents[2]
BIN = pathlib.Path(os.environ.setdefault("ROLLCALL_BIN_DIR", str(SOURCE / "build" / "release" / "bin")))
sys.path.insert(0, str(HERE))
import manners  # noqa: E402

# Steps of the three models that the chain starts from.
STEPS = {"policy": 150, "critic": 400, "judge": 400}

CHAIN = """# From a rude policy to a kind one, without a label: critic and judge are models.
name: chain
output_dir: {folder}
seed: {seed}
stage: rlaif
model: {{path: {policy}}}
data:
  train: [{{path: {folder}/data/prompts.jsonl}}]
  evaluation: [{{path: {folder}/data/held_out.jsonl}}]
sampling: {{temperature: 1.0, max_tokens: 16}}
rlaif:
  constitution: {folder}/constitution.yaml
  critic_path: {critic}
  judge_path: {judge}
  answers_per_prompt: 4
  min_log_odds: 0.5
  feedback_sampling: {{temperature: 0.7, max_tokens: 16}}
  train: {train}
  # Little fine-tuning, so that the preferences have something to add.
  sft: {{steps: {sft}, prompts_per_step: 32, optimizer: {{lr: 3e-4, beta2: 0.99}}}}
  dpo: {{steps: 40, prompts_per_step: 32, optimizer: {{lr: 3e-4, warmup_steps: 5, beta2: 0.99}}}}
  reward_model: {{steps: 60, prompts_per_step: 32, optimizer: {{lr: 1e-3, warmup_steps: 5, beta2: 0.99}}}}
  ppo: {{steps: 20, prompts_per_step: 32, optimizer: {{lr: 3e-4, warmup_steps: 2, beta2: 0.99}}}}
algorithm: {{preset: ppo, samples_per_prompt: 4, mini_batches: 2, epochs_per_batch: 1, gae_lambda: 1, kl_coefficient: 0.2}}
preference: {{beta: 0.5}}
reward:
  verifiers:
    - {{name: kind_ending, regex: {{pattern: "{pattern}"}}}}
learner:
  critic: {{optimizer: {{lr: 1e-3, beta2: 0.99}}}}
  checkpoint: {{every_steps: 20}}
generator: {{kv_cache_bytes: 33554432}}
evaluation: {{samples_per_prompt: 4}}
"""


def rollcall(*arguments):
    done = subprocess.run([BIN / "rollcall", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"rollcall {' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def train_model(folder, name, seed, steps):
    """The folder of a model that SFT made of the task's texts, made or gone on with."""
    path = folder / f"{name}.yaml"
    path.write_text(manners.SFT.format(name=name, folder=folder, seed=seed, steps=steps))
    final = folder / name / "final"
    if not (final / "config.json").exists():
        rollcall("train", path, "--quiet")
    return final


def judge_accuracy(judge, data):
    """How often the judge's likelier label is the right one, over held-out pairs that differ."""
    return json.loads(rollcall("eval", judge, "--data", data, "--verifier", "exact_match", "--set",
                               "sampling.temperature=0", "--set", "sampling.max_tokens=1", "--set",
                               "generator.kv_cache_bytes=33554432", "--json"))["reward/mean"]


def chain_yaml(folder, seed, policy, critic, judge, train="dpo", sft=15):
    return CHAIN.format(folder=folder, seed=seed, policy=policy, critic=critic, judge=judge, train=train, sft=sft,
                        pattern=manners.PATTERN)


def summaries(folder):
    return {step["name"]: step["summary"] for step in json.loads((folder / "chain" / "chain.json").read_text())["steps"]}


def run_seed(folder, seed, trainings):
    begin = time.monotonic()
    if not (folder / "constitution.yaml").exists():
        manners.write_task(folder, seed)
    models = {name: train_model(folder, name, seed, steps) for name, steps in STEPS.items()}
    row = {"seed": seed, "judge": judge_accuracy(models["judge"], folder / "data" / "judge_held_out.jsonl")}
    for train in trainings:
        path = folder / "chain.yaml"
        path.write_text(chain_yaml(folder, seed, **models, train=train))
        rollcall("train", path, "--quiet")
    done = summaries(folder)
    row |= {name: done[f"evaluation_{name}"]["reward"] for name in ("policy", "sft", "dpo", "ppo")
            if f"evaluation_{name}" in done}
    row |= {name: done["preferences"][name] for name in ("pairs", "kept", "left_out", "orders_agree",
                                                         "position_bias_nats")}
    row |= {"revised": done["revisions"]["revised"], "seconds": round(time.monotonic() - begin, 1)}
    return row


def percent(row, name):
    return f"{100 * row[name]:.1f} %" if name in row else "–"


def as_markdown(rows):
    lines = ["| seed | judge, held-out pairs | both orders agree | position bias | pairs kept | agreement: policy | "
             "after SFT | after DPO | after reward model and PPO |", "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        lines.append(f"| {row['seed']} | {percent(row, 'judge')} | {percent(row, 'orders_agree')} | "
                     f"{row['position_bias_nats']:+.2f} nats | {row['kept']} of {row['pairs']} | {percent(row, 'policy')} | "
                     f"{percent(row, 'sft')} | {percent(row, 'dpo')} | {percent(row, 'ppo')} |")
    return "\n".join(lines) + "\n"


def objections(rows, arguments):
    for row in rows:
        if row["judge"] < arguments.least_judge:
            yield f"seed {row['seed']}: the judge is right in {percent(row, 'judge')} of the cases"
        if row["sft"] <= row["policy"]:
            yield f"seed {row['seed']}: SFT left the agreement at {percent(row, 'sft')}, from {percent(row, 'policy')}"
        for name in ("dpo", "ppo"):
            if name in row and row[name] <= row["sft"]:
                yield f"seed {row['seed']}: {name} left the agreement at {percent(row, name)}, from {percent(row, 'sft')}"


def main():
    parser = argparse.ArgumentParser(prog="rollcall bench rlaif", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=pathlib.Path, default=pathlib.Path("runs/bench-rlaif"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", nargs="+", choices=["dpo", "reward_model"], default=["dpo", "reward_model"])
    parser.add_argument("--least-judge", type=float, default=0.9)
    arguments = parser.parse_args()
    folder = arguments.dir.resolve()
    rows = []
    for seed in arguments.seeds:
        home = folder / f"seed{seed}"
        home.mkdir(parents=True, exist_ok=True)
        rows.append(run_seed(home, seed, arguments.train))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        (folder / "rlaif.json").write_text(json.dumps(rows, indent=1) + "\n")
        (folder / "rlaif.md").write_text(as_markdown(rows))
    print(as_markdown(rows), end="")
    failed = list(objections(rows, arguments))
    print("\n".join(f"refuted: {text}" for text in failed), end="\n" if failed else "", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
