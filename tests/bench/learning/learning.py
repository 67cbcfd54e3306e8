#!/usr/bin/env python3
"""Every method on a small task, from the same SFT start: does it learn, how far, how fast?

For each seed the demo's data, model and SFT run (and those of a second task, the shell game, where a method asks for
it); from there each method trains with the settings of recipes.py. Online methods sample for themselves. Recorded ones
(SFT on verified samples, DPO, SimPO, ORPO, KTO, reward models) learn from samples of the SFT model, judged by the task's
rule. Accuracy is sampled at temperature 1 on 512 held-out prompts, 4 samples each; one standard error is about a point.
The win rate is that of a sample against one of the SFT model's on the same prompt, ties half; margins are those of held-out
pairs, in DPO's sense, 0 at the start. Seconds are those of training, sampling included where the method does it. Finished
runs are kept: run it again and it goes on, also in the middle of a run.

  ./rollcall bench learning                                   all methods, seeds 0 1 2, into runs/bench-learning
  ./rollcall bench learning --methods grpo rloo --seeds 0
  ./rollcall bench learning --report                          tables and pictures of what is there, nothing is run

Writes learning.md, learning.json, learning.png (mean reward of the training batches, step by step) and recorded.png
(pairs whose order is right) into the folder. Exits 1 when a method gained less than its recipe says in the mean over the
seeds, a reward model ordered fewer than 90 % of held-out pairs, or a run took longer than --budget.
"""

import argparse
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import cups  # noqa: E402
import recipes  # noqa: E402
import report  # noqa: E402
import samples  # noqa: E402

SOURCE = pathlib.Path(__file__).resolve().parents[3]
BIN = pathlib.Path(os.environ.get("ROLLCALL_BIN_DIR", SOURCE / "build" / "release" / "bin"))
LEAST_REWARD_ACCURACY = 0.9


class Failed(Exception):
    """A command did not end well."""


def rollcall(*arguments, check=True):
    done = subprocess.run([BIN / "rollcall", *map(str, arguments)], capture_output=True, text=True)
    if check and done.returncode != 0:
        raise Failed(f"rollcall {' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def prepare_addition(folder, seed, arguments):
    """The demo's data and SFT model in `folder`, made or gone on with."""
    sets = ["--sft-set", f"learner.steps={arguments.sft_steps}"] if arguments.sft_steps else []
    if (folder / "init" / "model.safetensors").exists():
        rollcall("train", folder / "sft.yaml", "--quiet", *[s.replace("--sft-set", "--set") for s in sets])
        return
    shutil.rmtree(folder, ignore_errors=True)
    # The demo's own second stage is cut to nothing.
    rollcall("demo", "--dir", folder, "--seed", seed, "--json", *sets, "--rl-set", "learner.steps=1", "--rl-set",
             "learner.prompts_per_step=1", "--rl-set", "evaluation.max_prompts=1", "--rl-set", "name=unused")


def prepare_cups(folder, seed, arguments):
    if not (folder / "init" / "model.safetensors").exists():
        cups.write_data(folder / "data", seed)
        cups.write_model(folder / "init")
        rollcall("init", folder / "init", "--seed", seed)
    path = folder / "sft.yaml"
    path.write_text(cups.SFT.format(folder=folder, seed=seed, steps=arguments.sft_steps or cups.SFT_STEPS,
                                    batch=cups.SFT_BATCH))
    rollcall("train", path, "--quiet")


PREPARE = {"add": prepare_addition, "cups": prepare_cups}


def home_of(root, task, seed):
    return root / (f"seed{seed}" if task == "add" else f"{task}-seed{seed}")


def reward_of(row, prefix=""):
    """By the rule, whatever else the reward is made of."""
    return row.get(f"{prefix}reward/correct", row.get(f"{prefix}reward/mean"))


def figures_of(rows):
    """What a finished online run's metrics say."""
    evaluations = [row for row in rows if "eval/reward/mean" in row]
    trained = [row for row in rows if "reward/mean" in row]
    start = evaluations[0]["time"]
    return {
        "accuracy_start": reward_of(evaluations[0], "eval/"),
        "accuracy_end": reward_of(evaluations[-1], "eval/"),
        "kl_start": evaluations[0].get("eval/kl"),
        "kl_end": evaluations[-1].get("eval/kl"),
        "seconds": round(trained[-1]["time"] - start, 1),
        "steps": trained[-1]["step"],
        "max_logprob_gap": max((row["logprob_gap"] for row in trained if "logprob_gap" in row), default=None),
        "curve": [(round(row["time"] - start, 2), reward_of(row)) for row in trained],
    }


def optimizer_bytes(run):
    """Of the policy, as its learner logged it."""
    found = re.findall(r"optimizer_bytes=(\d+)", (run / "logs" / "learner.log").read_text())
    return int(found[-1]) if found else None


def accuracy_of(rows):
    right = [is_right for row in rows for _, is_right, _ in row["texts"]]
    return sum(right) / len(right)


def sampled(model, folder, name, seed, arguments, again=True):
    """Judged samples of the held-out prompts; not `again`: those of an earlier call where it made them."""
    prompts = folder / "offline" / f"evaluated_{arguments.held_out}.jsonl"
    if not prompts.exists():
        samples.write_rows(prompts, samples.read_rows(folder / "data" / "held_out.jsonl")[:arguments.held_out])
    out = folder / "offline" / f"{name}_{arguments.held_out}.samples.jsonl"
    if again:
        out.unlink(missing_ok=True)
    return samples.sample(rollcall, model, prompts, out, seed, samples=4)


def margins(model, folder, name):
    """{margin, pair_accuracy} of a policy on the held-out pairs, relative to the SFT model."""
    path = folder / "offline" / f"{name}.margin.yaml"
    path.write_text(recipes.MARGIN_PROBE.format(folder=folder / "offline" / f"{name}.margin", model=model,
                                                start=folder / "sft" / "final",
                                                pairs=folder / "offline" / "held_out_pairs.jsonl"))
    shutil.rmtree(folder / "offline" / f"{name}.margin", ignore_errors=True)
    rollcall("train", path, "--quiet")
    first = next(row for row in metrics(folder / "offline" / f"{name}.margin" / "margin") if "eval/accuracy" in row)
    return {"margin": first["eval/margin"], "pair_accuracy": first["eval/accuracy"]}


def recorded_figures(method, folder, seed, arguments):
    """What a finished run of a recorded stage is worth."""
    rows = metrics(folder / method.name)
    trained = [row for row in rows if "loss" in row]
    figures = {"seconds": round(sum(row["time/step_seconds"] for row in trained), 1), "steps": trained[-1]["step"]}
    begin = trained[0]["time"] - trained[0]["time/step_seconds"]
    share = next((key for key in ("pair_accuracy", "accuracy") if key in trained[0]), None)
    figures["curve"] = [(round(row["time"] - begin, 2), row[share]) for row in trained if share in row]
    if method.rewards:
        figures["pair_accuracy"] = [row["eval/accuracy"] for row in rows if "eval/accuracy" in row][-1]
        return figures
    merged = folder / method.name / "final_merged"
    model = merged if merged.exists() else folder / method.name / "final"
    start = sampled(folder / "sft" / "final", folder, "start", seed, arguments, again=False)
    end = sampled(model, folder, method.name, seed + 2000, arguments)
    return {**figures, "accuracy_start": accuracy_of(start), "accuracy_end": accuracy_of(end),
            "win_rate": samples.win_rate(end, start), **margins(model, folder, method.name)}


def yaml_of(method, folder, seed, arguments):
    if method.online:
        return recipes.online_yaml(method, folder, seed, arguments.steps, arguments.prompts, arguments.held_out)
    home = samples.prepare(rollcall, folder, seed)
    train, rows = samples.write_data(home, method.data, min(method.prompts, arguments.recorded_prompts), seed)
    return recipes.recorded_yaml(method, folder, seed, train, home / "held_out_pairs.jsonl", rows, arguments.steps)


def kept_result(method, folder, text=None):
    """An earlier run's result; None where there is none, or it is of other settings than `text`."""
    path = folder / f"{method.name}.result.json"
    if not path.exists():
        return None
    kept = json.loads(path.read_text())
    if text is not None and kept["key"] != hashlib.sha256(text.encode()).hexdigest()[:16]:
        return None
    return {"method": method.name, "online": method.online, **kept}


def run_method(method, folder, seed, arguments):
    """The figures of one run; from its result file where the same run is finished already."""
    for needed in method.needs:
        run_method(recipes.METHODS[needed], folder, seed, arguments)
    text = yaml_of(method, folder, seed, arguments)
    if (kept := kept_result(method, folder, text)) is not None:
        return kept
    path = folder / f"{method.name}.yaml"
    if path.exists() and path.read_text() != text:
        shutil.rmtree(folder / method.name, ignore_errors=True)
    path.write_text(text)
    resumed = (folder / method.name / "metrics.jsonl").exists()
    done = rollcall("train", path, "--quiet", check=False)
    if done.returncode != 0:
        raise Failed(f"seed {seed}: exit code {done.returncode}; {folder / method.name}/logs\n{done.stderr}")
    figures = (figures_of(metrics(folder / method.name)) if method.online else
               recorded_figures(method, folder, seed, arguments))
    row = {"key": hashlib.sha256(text.encode()).hexdigest()[:16], "method": method.name, "seed": seed,
           "online": method.online, "resumed": resumed, "optimizer_bytes": optimizer_bytes(folder / method.name), **figures}
    partial = folder / f"{method.name}.result.partial"
    partial.write_text(json.dumps(row))
    partial.replace(folder / f"{method.name}.result.json")
    return row


def say(row):
    if "accuracy_end" in row:
        what = f"{100 * row['accuracy_start']:.1f} % to {100 * row['accuracy_end']:.1f} %"
    else:
        what = f"{100 * row['pair_accuracy']:.1f} % of held-out pairs"
    print(f"seed {row['seed']}  {row['method']}: {what} in {row['seconds']} s", file=sys.stderr, flush=True)


def run_seed(root, seed, methods, arguments, rows, failures):
    for method in methods:
        home = home_of(root, method.task, seed)
        try:
            if arguments.report:
                row = kept_result(method, home)
            else:
                if not (home / "sft" / "final" / "config.json").exists():
                    PREPARE[method.task](home, seed, arguments)
                row = run_method(method, home, seed, arguments)
        except Failed as failure:
            failures[method.name] = str(failure).splitlines()[0]
            print(f"{method.name}: {failure}", file=sys.stderr, flush=True)
            continue
        if row is None:
            continue
        rows.append(row)
        say(row)
        report.write(root, rows, [m.name for m in methods], {})


def objections(table, arguments):
    for entry in table:
        name = entry["method"]
        least = recipes.METHODS[name].least_gain if arguments.least_gain is None else arguments.least_gain
        if "gain" in entry and entry["gain"]["mean"] < least:
            yield f"{name} gained {entry['gain']['mean']:.3f}, less than {least}"
        if "gain" not in entry and entry["pair_accuracy"]["mean"] < LEAST_REWARD_ACCURACY:
            yield f"{name} orders {entry['pair_accuracy']['mean']:.3f} of held-out pairs"
        if "seconds" in entry and entry["seconds"]["max"] > arguments.budget:
            yield f"{name} trained for {entry['seconds']['max']} s, more than {arguments.budget}"
        if entry["max_logprob_gap"] != 0:
            yield f"{name}: rollout and training log-probs differ by {entry['max_logprob_gap']}"


def parse():
    parser = argparse.ArgumentParser(prog="rollcall bench learning", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=pathlib.Path, default=pathlib.Path("runs/bench-learning"))
    parser.add_argument("--methods", nargs="+", choices=list(recipes.METHODS), default=list(recipes.METHODS),
                        metavar="METHOD", help=", ".join(recipes.METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="steps of every method, instead of its recipe's")
    parser.add_argument("--sft-steps", type=int, help="steps of the SFT start, instead of the task's")
    parser.add_argument("--prompts", type=int, help="prompts an online step, instead of the recipe's")
    parser.add_argument("--recorded-prompts", type=int, default=samples.PROMPTS, help="most prompts to learn from samples of")
    parser.add_argument("--held-out", type=int, default=512, help="held-out prompts")
    parser.add_argument("--least-gain", type=float, help="of every method, instead of its recipe's")
    parser.add_argument("--budget", type=float, default=60, help="seconds of training a run")
    parser.add_argument("--report", action="store_true", help="only report on the finished runs")
    return parser.parse_args()


def main():
    arguments = parse()
    root = arguments.dir.resolve()
    root.mkdir(parents=True, exist_ok=True)
    methods = [recipes.METHODS[name] for name in arguments.methods]
    rows, failures = [], {}
    for seed in arguments.seeds:
        run_seed(root, seed, methods, arguments, rows, failures)
    table, text = report.write(root, rows, arguments.methods, failures)
    print(text, end="")
    failed = [*objections(table, arguments), *(f"{name}: {why}" for name, why in failures.items())]
    print("\n".join(f"refuted: {text}" for text in failed), end="\n" if failed else "", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(str(failure))
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
