#!/usr/bin/env python3
"""What the demo claims, against its controls, over several seeds.

For each seed: the demo; SFT continued from the demo's SFT model for the wall time that RL took; GRPO with the rewards
shuffled within each batch. Held-out accuracy, sampled at temperature 1. Exits 1 when a control refutes the claim: RL
must raise accuracy clearly, SFT continued must end below it, shuffled rewards must not raise it, and rollout and
training log-probs must be equal.

  tests/bench/demo_controls.py [--seeds 0 1 2] [--json] [--keep DIR]
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

BIN = pathlib.Path(os.environ.get("ROLLCALL_BIN_DIR",
                                  pathlib.Path(__file__).resolve().parents[2] / "build" / "release" / "bin"))
# Shuffled rewards move accuracy at random; one standard error of a sampled figure (512 problems, 4 samples each) is
# about one point.
NOISE = 0.03
# The prototype in PyTorch gained 40 to 44 points over three seeds.
LEAST_GAIN = 0.2
SUMMARIZED = ("accuracy_sft", "accuracy_rl", "accuracy_sft_more", "accuracy_shuffled", "seconds")


def rollcall(*arguments):
    done = subprocess.run([BIN / "rollcall", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"rollcall {' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def seconds_per_step(run):
    rows = [row for row in metrics(run) if "loss" in row]
    return (rows[-1]["time"] - rows[0]["time"]) / (rows[-1]["step"] - rows[0]["step"])


def last_accuracy(run):
    return [row["eval/reward/mean"] for row in metrics(run) if "eval/reward/mean" in row][-1]


def one_seed(folder, seed):
    figures = json.loads(rollcall("demo", "--dir", folder, "--seed", seed, "--json"))
    rl_seconds = seconds_per_step(folder / "grpo") * figures["steps"]
    steps = max(1, round(rl_seconds / seconds_per_step(folder / "sft")))
    rollcall("train", folder / "sft.yaml", "--quiet", "--set", "name=sft_more", "--set",
             f"model.path={folder}/sft/final", "--set", f"learner.steps={steps}", "--set", "learner.optimizer.lr=1e-3")
    more = json.loads(rollcall("eval", folder / "grpo.yaml", "--model", folder / "sft_more" / "final", "--json"))
    rollcall("train", folder / "grpo.yaml", "--quiet", "--set", "name=shuffled", "--set",
             "algorithm.shuffle_rewards=true")
    return {"seed": seed, **figures, "rl_seconds": round(rl_seconds, 1), "sft_more_steps": steps,
            "accuracy_sft_more": more["eval/reward/mean"], "accuracy_shuffled": last_accuracy(folder / "shuffled")}


def objections(row):
    """What of the claim this seed's figures refute, in words."""
    if row["accuracy_rl"] < row["accuracy_sft"] + LEAST_GAIN:
        yield f"RL gained less than {LEAST_GAIN}"
    if row["accuracy_sft_more"] >= row["accuracy_rl"]:
        yield "SFT continued for as long does as well as RL"
    if row["accuracy_shuffled"] > row["accuracy_sft"] + NOISE:
        yield "shuffled rewards raise accuracy, too"
    if row["max_logprob_gap"] != 0:
        yield "rollout and training log-probs differ"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", action="store_true", help="the summary as JSON, too")
    parser.add_argument("--keep", type=pathlib.Path, help="keep the run folders here")
    arguments = parser.parse_args()
    folder = arguments.keep or pathlib.Path(tempfile.mkdtemp(prefix="rollcall-controls-"))
    rows = []
    try:
        for seed in arguments.seeds:
            rows.append(one_seed(folder / f"seed{seed}", seed))
            print(json.dumps(rows[-1]), flush=True)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    summary = {}
    for name in SUMMARIZED:
        values = [row[name] for row in rows]
        summary[name] = {"mean": statistics.mean(values), "min": min(values), "max": max(values)}
    if arguments.json:
        print(json.dumps(summary))
    else:
        for name, of in summary.items():
            print(f"{name:20s} mean {of['mean']:.3f}  min {of['min']:.3f}  max {of['max']:.3f}")
    refuted = [f"seed {row['seed']}: {objection}" for row in rows for objection in objections(row)]
    if refuted:
        sys.exit("\n".join(refuted))


if __name__ == "__main__":
    main()
