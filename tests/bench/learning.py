#!/usr/bin/env python3
"""Every preset on the demo's task, from the same SFT start: does it learn, how far, how fast?

For each seed the demo's data, model and SFT run; from there each preset trains for the steps of its recipe below, with
the learning rate and schedule of all. Held-out accuracy is sampled at temperature 1 (512 prompts, 4 samples each; one
standard error is about a point). Training seconds are those between the evaluations before and after, generation
included. Finished runs are kept: run it again and it goes on, also in the middle of a run.

  ./rollcall bench learning                                   all presets, seeds 0 1 2, into runs/bench-learning
  ./rollcall bench learning --presets grpo rloo --seeds 0
  ./rollcall bench learning --report                          table and picture of what is there, nothing is run

Writes learning.md, learning.json and learning.png (mean reward of the training batches over the training seconds) into
the folder. Exits 1 when a preset gained less than --least-gain in the mean over the seeds, or took longer than --budget
in any.
"""

import argparse
import hashlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import chart  # noqa: E402

SOURCE = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("ROLLCALL_BIN_DIR", SOURCE / "build" / "release" / "bin"))
# Reward curves are means over this many steps: single batches of 256 samples jump by some points.
SMOOTHING = 3

# What a preset needs beyond its own row of cells. One update a batch where nothing is said; two mini-batches for those
# whose clipping is the point of them. KL coefficients are those of the demo, not of the papers' large models.
RECIPES = {
    "grpo": "kl_coefficient: 0.01",
    "dr_grpo": "",
    "dapo": "mini_batches: 2, max_sampling_rounds: 50",
    "gspo": "mini_batches: 2, clip_low: 3e-3, clip_high: 4e-3",
    "cispo": "mini_batches: 2",
    "rloo": "kl_coefficient: 0.01",
    "reinforce_pp": "kl_coefficient: 0.01",
    "reinforce_pp_baseline": "kl_coefficient: 0.01",
    "opo": "",
    "ppo": "mini_batches: 2, epochs_per_batch: 1, gae_lambda: 1, kl_coefficient: 0.01",
    "remax": "kl_coefficient: 0.01",
    "online_dpo": "",
}
# Once nearly every group is all right, dynamic sampling finds few that are not: DAPO is there after a few steps.
STEPS = {**dict.fromkeys(RECIPES, 40), "dapo": 8}

RUN = """# {preset} on the demo's task, from its SFT model.
name: {preset}
output_dir: {folder}
seed: {seed}
model: {{path: {folder}/sft/final}}
data:
  train: [{{path: {folder}/data/train.jsonl}}]
  evaluation: [{{path: {folder}/data/held_out.jsonl}}]
sampling: {{temperature: 1.0, max_tokens: 32}}
algorithm: {{preset: {preset}, samples_per_prompt: 8{cells}}}
reward:
  verifiers:
    - {{name: correct, exact_match: {{answer_column: answer, after: "="}}}}
learner:
  steps: {steps}
  prompts_per_step: {prompts}
  optimizer: {{lr: 3e-4, schedule: cosine, warmup_steps: 5, min_lr_ratio: 0.1, beta2: 0.99}}
{learner}  checkpoint: {{every_steps: 20}}
evaluation: {{at_start: true, samples_per_prompt: 4, max_prompts: {evaluation}}}
"""
# The critic learns from nothing, hence faster than the policy.
CRITIC = "  critic: {optimizer: {lr: 1e-3, schedule: cosine, warmup_steps: 5, min_lr_ratio: 0.1, beta2: 0.99}}\n"


def rollcall(*arguments, check=True):
    done = subprocess.run([BIN / "rollcall", *map(str, arguments)], capture_output=True, text=True)
    if check and done.returncode != 0:
        sys.exit(f"rollcall {' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def offered(preset, folder):
    """Whether this build trains the preset; what it says otherwise."""
    path = folder / f"{preset}.probe.yaml"
    path.write_text(run_yaml(preset, folder, 0, argparse.Namespace(steps=1, prompts=2, held_out=1)))
    done = rollcall("config", path, check=False)
    path.unlink()
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def run_yaml(preset, folder, seed, arguments):
    cells = f", {RECIPES[preset]}" if RECIPES[preset] else ""
    return RUN.format(preset=preset, folder=folder, seed=seed, cells=cells, prompts=arguments.prompts,
                      steps=arguments.steps or STEPS[preset], evaluation=arguments.held_out,
                      learner=CRITIC if preset == "ppo" else "")


def prepare(folder, seed, arguments):
    """The demo's data and SFT model in `folder`, made or gone on with."""
    if (folder / "sft" / "final" / "config.json").exists():
        return
    sets = ["--sft-set", f"learner.steps={arguments.sft_steps}"] if arguments.sft_steps else []
    if (folder / "init" / "model.safetensors").exists():
        rollcall("train", folder / "sft.yaml", "--quiet", *[s.replace("--sft-set", "--set") for s in sets])
        return
    shutil.rmtree(folder, ignore_errors=True)
    # The demo's own second stage is cut to nothing.
    rollcall("demo", "--dir", folder, "--seed", seed, "--json", *sets, "--rl-set", "learner.steps=1", "--rl-set",
             "learner.prompts_per_step=1", "--rl-set", "evaluation.max_prompts=1", "--rl-set", "name=unused")


def figures_of(rows):
    """What a finished run's metrics say."""
    evaluations = [row for row in rows if "eval/reward/mean" in row]
    trained = [row for row in rows if "reward/mean" in row]
    start = evaluations[0]["time"]
    return {
        "accuracy_start": evaluations[0]["eval/reward/mean"],
        "accuracy_end": evaluations[-1]["eval/reward/mean"],
        "seconds": round(trained[-1]["time"] - start, 1),
        "steps": trained[-1]["step"],
        "max_logprob_gap": max((row["logprob_gap"] for row in trained if "logprob_gap" in row), default=None),
        "curve": [(round(row["time"] - start, 2), row["reward/mean"]) for row in trained],
    }


def run_preset(preset, folder, seed, arguments):
    """The figures of one run; from its result file where the same run is finished already. {"failed": why} where it
    ended otherwise."""
    text = run_yaml(preset, folder, seed, arguments)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    result = folder / f"{preset}.result.json"
    if result.exists():
        kept = json.loads(result.read_text())
        if kept["key"] == key:
            return kept
    if arguments.report:
        return None
    path = folder / f"{preset}.yaml"
    if path.exists() and path.read_text() != text:
        shutil.rmtree(folder / preset, ignore_errors=True)
    path.write_text(text)
    resumed = (folder / preset / "metrics.jsonl").exists()
    done = rollcall("train", path, "--quiet", check=False)
    if done.returncode != 0:
        return {"failed": f"seed {seed}: exit code {done.returncode}; {folder / preset}/logs"}
    row = {"key": key, "preset": preset, "seed": seed, "resumed": resumed, **figures_of(metrics(folder / preset))}
    partial = result.with_suffix(".partial")
    partial.write_text(json.dumps(row))
    partial.replace(result)
    return row


def spread(values):
    return {"mean": statistics.mean(values), "min": min(values), "max": max(values)}


def summarize(rows):
    """One entry a preset, over its seeds."""
    table = []
    for preset in RECIPES:
        of = [row for row in rows if row["preset"] == preset]
        if of:
            table.append({"preset": preset, "seeds": [row["seed"] for row in of],
                          "accuracy_start": spread([row["accuracy_start"] for row in of]),
                          "accuracy_end": spread([row["accuracy_end"] for row in of]),
                          "gain": spread([row["accuracy_end"] - row["accuracy_start"] for row in of]),
                          # A run that was interrupted counts the time it stood still.
                          "seconds": spread([row["seconds"] for row in of if not row["resumed"]] or [float("nan")]),
                          "steps": of[0]["steps"],
                          "max_logprob_gap": max((row["max_logprob_gap"] or 0 for row in of), default=0)})
    return table


def as_markdown(table, missing):
    lines = ["| preset | seeds | steps | held-out accuracy, start | end: mean (least to most) | gain | training s: mean "
             "(most) |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for entry in table:
        end, seconds = entry["accuracy_end"], entry["seconds"]
        lines.append(f"| `{entry['preset']}` | {len(entry['seeds'])} | {entry['steps']} | "
                     f"{100 * entry['accuracy_start']['mean']:.1f} % | {100 * end['mean']:.1f} % "
                     f"({100 * end['min']:.1f} to {100 * end['max']:.1f}) | {100 * entry['gain']['mean']:+.1f} | "
                     f"{seconds['mean']:.0f} ({seconds['max']:.0f}) |")
    lines += [f"| `{preset}` | no result: {reason} | | | | | |" for preset, reason in missing.items()]
    return "\n".join(lines) + "\n"


def smooth(curve):
    return [(curve[i][0], statistics.mean(y for _, y in curve[max(0, i - SMOOTHING + 1):i + 1]))
            for i in range(len(curve))]


def mean_curve(rows):
    """The curves of several seeds as one: step by step, the mean of seconds and of rewards."""
    curves = [smooth(row["curve"]) for row in rows]
    return [(statistics.mean(c[i][0] for c in curves), statistics.mean(c[i][1] for c in curves))
            for i in range(min(map(len, curves)))]


def write_report(folder, rows, missing):
    table = summarize(rows)
    (folder / "learning.json").write_text(json.dumps({"presets": table, "not_run": missing, "runs": rows}) + "\n")
    text = as_markdown(table, missing)
    (folder / "learning.md").write_text(text)
    curves = {entry["preset"]: mean_curve([row for row in rows if row["preset"] == entry["preset"]])
              for entry in table}
    (folder / "learning.png").write_bytes(chart.line_chart(curves, "reward of the training batches", "seconds",
                                                           "reward", (0, 1)))
    return table, text


def objections(table, arguments):
    for entry in table:
        if entry["gain"]["mean"] < arguments.least_gain:
            yield f"{entry['preset']} gained {entry['gain']['mean']:.3f}, less than {arguments.least_gain}"
        if entry["seconds"]["max"] > arguments.budget:
            yield f"{entry['preset']} trained for {entry['seconds']['max']} s, more than {arguments.budget}"
        if entry["max_logprob_gap"] != 0:
            yield f"{entry['preset']}: rollout and training log-probs differ by {entry['max_logprob_gap']}"


def parse():
    parser = argparse.ArgumentParser(prog="rollcall bench learning", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=pathlib.Path, default=pathlib.Path("runs/bench-learning"))
    parser.add_argument("--presets", nargs="+", choices=list(RECIPES), default=list(RECIPES), metavar="PRESET")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="steps of every preset, instead of its recipe's")
    parser.add_argument("--sft-steps", type=int, help="steps of the SFT start, instead of the demo's")
    parser.add_argument("--prompts", type=int, default=32, help="prompts a step")
    parser.add_argument("--held-out", type=int, default=512, help="held-out prompts")
    parser.add_argument("--least-gain", type=float, default=0.2)
    parser.add_argument("--budget", type=float, default=60, help="seconds of training a run")
    parser.add_argument("--report", action="store_true", help="only report on the finished runs")
    return parser.parse_args()


def main():
    arguments = parse()
    folder = arguments.dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    missing = {preset: reason for preset in arguments.presets if (reason := offered(preset, folder))}
    rows, failures = [], {}
    for seed in arguments.seeds:
        home = folder / f"seed{seed}"
        if not arguments.report:
            prepare(home, seed, arguments)
        for preset in arguments.presets:
            if preset in missing or not home.exists():
                continue
            row = run_preset(preset, home, seed, arguments)
            if row is None:
                continue
            if "failed" in row:
                failures[preset] = row["failed"]
                print(f"{preset}: {row['failed']}", file=sys.stderr, flush=True)
                continue
            rows.append(row)
            print(f"seed {seed}  {preset}: {100 * row['accuracy_start']:.1f} % to {100 * row['accuracy_end']:.1f} % in "
                  f"{row['seconds']} s", file=sys.stderr, flush=True)
            write_report(folder, rows, missing)
    table, text = write_report(folder, rows, {**missing, **failures})
    print(text, end="")
    failed = [*objections(table, arguments), *(f"{preset}: {why}" for preset, why in failures.items())]
    print("\n".join(f"refuted: {text}" for text in failed), end="\n" if failed else "", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
