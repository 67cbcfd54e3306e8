#!/usr/bin/env python3
"""Tokenising throughput against the Python package `tokenizers`, interleaved, one thread each.

Both encode the questions of ROLLCALL_TEST_DATA/gsm8k with each of the golden tokenizers: Rollcall one call a text, as
it reads rows; Python the faster of that and one call of encode_batch_fast for all. Prints texts' bytes a second and the
ratio Rollcall / Python, smallest, median and largest of the rounds. Wants a Python with `tokenizers` (by default that
of tests/interop), skips without; exits 1 where the numbers of tokens differ.

  tests/bench/tokenizer_throughput.py [--rounds 7] [--python PYTHON]
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

BIN = pathlib.Path(os.environ.get("ROLLCALL_BIN_DIR",
                                  pathlib.Path(__file__).resolve().parents[2] / "build" / "release" / "bin"))
INTEROP_PYTHON = pathlib.Path.home() / ".cache/rollcall/interop-venv/bin/python"
TOKENIZERS = ("llama3_bytelevel", "qwen2_bytelevel_nfc", "mistral_spm_bpe_metaspace", "t5_unigram")
TEXTS = 2000
# The other side: reads the same file, prints tokens and bytes a second.
PYTHON_SIDE = """
import sys, time, tokenizers
tokenizer = tokenizers.Tokenizer.from_file(sys.argv[1] + "/tokenizer.json")
tokenizer.no_truncation(); tokenizer.no_padding()
lines = open(sys.argv[2], encoding="utf-8", newline="\\n").read().split("\\n")[:-1]
best = None
one_by_one = lambda: sum(len(tokenizer.encode(line).ids) for line in lines)
fast_batch = lambda: sum(len(encoding.ids) for encoding in tokenizer.encode_batch_fast(lines))
for encode in (one_by_one, fast_batch) * 3:
    begin = time.perf_counter()
    tokens = encode()
    seconds = time.perf_counter() - begin
    best = seconds if best is None else min(best, seconds)
print(tokens, sum(len(line.encode()) for line in lines) / best)
"""


def rollcall(environment):
    command = [BIN / "bench" / "text_bench", "--benchmark_filter=BM_EncodeFile", "--benchmark_format=json",
               "--benchmark_repetitions=3", "--benchmark_min_time=0.1"]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    runs = [run for run in json.loads(output)["benchmarks"] if run["run_type"] == "iteration"]
    return int(runs[0]["tokens"]), max(run["bytes_per_second"] for run in runs)


def python(interpreter, folder, path, environment):
    output = subprocess.run([interpreter, "-c", PYTHON_SIDE, folder, path], check=True, capture_output=True, text=True,
                            env=environment).stdout.split()
    return int(output[0]), float(output[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--python", default=str(INTEROP_PYTHON))
    arguments = parser.parse_args()
    data = os.environ.get("ROLLCALL_TEST_DATA")
    if data is None or not pathlib.Path(data, "gsm8k").exists():
        print("skipped: ROLLCALL_TEST_DATA has no gsm8k")
        return 77
    if subprocess.run([arguments.python, "-c", "import tokenizers"], capture_output=True).returncode != 0:
        print(f"skipped: {arguments.python} has no tokenizers package")
        return 77
    faults = 0
    with tempfile.TemporaryDirectory() as scratch:
        path = str(pathlib.Path(scratch, "texts"))
        with open(pathlib.Path(data, "gsm8k", "train.jsonl"), encoding="utf-8") as rows:
            texts = [json.loads(next(rows))["question"].replace("\n", " ") for _ in range(TEXTS)]
        pathlib.Path(path).write_text("".join(text + "\n" for text in texts), encoding="utf-8")
        for name in TOKENIZERS:
            folder = str(pathlib.Path(data, "golden/text/tokenizers", name))
            environment = {**os.environ, "ROLLCALL_BENCH_TOKENIZER": folder, "ROLLCALL_BENCH_TEXT": path,
                           "TOKENIZERS_PARALLELISM": "false"}
            ratios, speeds = [], []
            for _ in range(arguments.rounds):
                ours = rollcall(environment)
                theirs = python(arguments.python, folder, path, environment)
                faults += ours[0] != theirs[0]
                ratios.append(ours[1] / theirs[1])
                speeds.append((ours[1], theirs[1]))
            ours, theirs = (statistics.median(speed[i] for speed in speeds) / 1e6 for i in (0, 1))
            print(f"{name:28} {ours:7.2f} MB/s, Python {theirs:7.2f} MB/s, ratio {min(ratios):.2f} / "
                  f"{statistics.median(ratios):.2f} / {max(ratios):.2f} of {len(ratios)} rounds", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
