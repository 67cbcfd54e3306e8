#!/usr/bin/env python3
"""What configs/stories.yaml promises: the held-out reward rises clearly, the KL to the pretrained model stays bounded.

Runs the recipe as it is and prints the figures; exits 1 when it does not hold what it promises, 77 without the model.

  tests/bench/stories_recipe.py [--model DIR] [--seed N] [--keep DIR]
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("ROLLCALL_BIN_DIR", SOURCE / "build" / "release" / "bin"))
DATA = pathlib.Path(os.environ.get("ROLLCALL_TEST_DATA", SOURCE.parent / "shared" / "data"))
# Of a reward from 0 to 1 that starts near 0.1; the standard error of a held-out figure (129 prompts, 2 samples each)
# is about 0.02.
LEAST_GAIN = 0.4
# Nats a token, the mean over any step's batch.
LARGEST_KL = 0.3


def train(model, folder, seed):
    """(metrics, seconds) of the recipe."""
    command = [BIN / "rollcall", "train", "configs/stories.yaml", "--quiet", "--set", f"model.path={model}",
               "--set", f"output_dir={folder}", "--set", f"seed={seed}"]
    start = time.monotonic()
    done = subprocess.run([str(part) for part in command], cwd=SOURCE, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"exit code {done.returncode}\n{done.stdout}{done.stderr}")
    lines = (folder / "stories" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, default=DATA / "stories260k")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=pathlib.Path, help="keep the run folder here")
    arguments = parser.parse_args()
    if not (arguments.model / "config.json").exists():
        print(f"skipped: no model in {arguments.model}")
        sys.exit(77)
    folder = (arguments.keep or pathlib.Path(tempfile.mkdtemp(prefix="rollcall-stories-"))).resolve()
    try:
        rows, seconds = train(arguments.model.resolve(), folder, arguments.seed)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    held_out = [(row["step"], row) for row in rows if "eval/reward/mean" in row]
    steps = [row for row in rows if "kl" in row]
    for step, row in held_out:
        print(f"step {step:3d}  held-out reward {row['eval/reward/mean']:.3f}  "
              f"names the animal {row['eval/reward/names_the_animal']:.3f}  ends {row['eval/reward/ends']:.3f}  "
              f"tokens {row['eval/length/mean']:.0f}")
    gain = held_out[-1][1]["eval/reward/mean"] - held_out[0][1]["eval/reward/mean"]
    largest_kl = max(row["kl"] for row in steps)
    gap = max(row["logprob_gap"] for row in steps)
    print(f"{len(steps)} steps in {seconds:.0f} s, KL at most {largest_kl:.3f}, at the end {steps[-1]['kl']:.3f} nats "
          f"a token, log-prob gap {gap}")
    objections = []
    if held_out[0][0] != 0 or gain < LEAST_GAIN:
        objections.append(f"the held-out reward rose by {gain:.3f}, not by {LEAST_GAIN}")
    if largest_kl > LARGEST_KL:
        objections.append(f"the KL reached {largest_kl:.3f}, above {LARGEST_KL}")
    if gap != 0:
        objections.append("rollout and training log-probs differ")
    sys.exit("\n".join(objections) or 0)


if __name__ == "__main__":
    main()
