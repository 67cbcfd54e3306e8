#!/usr/bin/env python3
"""./rollcall bench engine: Rollcall's engine against the machine's own limits and against its peers, in one run.

Each section alternates Rollcall and a peer (A/B/A/B) on the same weights, dtype (bfloat16), token ids and lengths, and
gives the ratio of the pairs as median, minimum and maximum. A pair during which other processes took more than 5 % of the
cores is void. A peer that is absent is said to be absent. Decoding measures the machine's limits in the same run.

--results FILE keeps every pair: a later run with the same file goes on where this one ended, so a long bench can be made
of short pieces (--minutes). What another build of the worker measured is measured again.

Time of a pair on 2 cores: seconds to half a minute with `tiny`, one to six minutes with `qwen2.5-0.5b`, of which the peers
take nearly all. --quick: one pair of each section, less work, disturbed or not, to see that everything runs.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

import grpo_step
import machine
import peers
from report import text_of
from results import Results

SHAPES = ("tiny", "qwen2.5-0.5b")
# (make_work.py options): the larger model gets less of the same kind, and its whole step, minutes with a peer, least.
WORK = {
    "tiny": {"ragged": ("--prompts", "8", "--samples", "8", "--completion-tokens", "32", "256"),
             "uniform": ("--prompts", "8", "--samples", "8", "--completion-tokens", "32", "256", "--uniform")},
    "qwen2.5-0.5b": {"ragged": ("--prompts", "4", "--samples", "8", "--completion-tokens", "32", "128"),
                     "uniform": ("--prompts", "2", "--samples", "8", "--completion-tokens", "32", "64", "--uniform")}}
QUICK_WORK = {"ragged": ("--prompts", "2", "--samples", "4", "--completion-tokens", "8", "24"),
              "uniform": ("--prompts", "2", "--samples", "4", "--completion-tokens", "8", "16", "--uniform")}
NEW_TOKENS = {"tiny": 64, "qwen2.5-0.5b": 32}
BATCHES = (1, 16, 64)
HERE = pathlib.Path(__file__).resolve().parent


class Bench:
    def __init__(self, args):
        self.args = args
        self.deadline = time.monotonic() + 60 * args.minutes
        self.results = Results(args.results, machine.identity(args.worker))

    def say(self, text):
        print(text, file=sys.stderr if self.args.json else sys.stdout, flush=True)

    def ours(self, command, *arguments):
        # Idle threads sleep, as they do in the services, which see to it themselves.
        done = subprocess.run([self.args.worker, command, *map(str, arguments), "--threads", str(self.args.threads)],
                              capture_output=True, text=True, env=machine.quiet_threads(), timeout=1800)
        if done.returncode != 0:
            raise RuntimeError(f"{command}: exit code {done.returncode}\n{done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])

    def peer(self, script, *arguments):
        return peers.run(script, *arguments, threads=self.args.threads)

    def model(self, shape):
        """Folder of a random model, made once."""
        folder = peers.CACHE / "engine-bench" / shape
        if not (folder / "complete").exists():
            folder.mkdir(parents=True, exist_ok=True)
            self.peer(peers.scripts() / "make_model.py", "--shape", shape, "--out", folder)
            (folder / "complete").touch()
        return folder

    def work(self, shape, kind):
        """The file of a workload: ragged, or with completions of one length."""
        options = QUICK_WORK[kind] if self.args.quick else WORK[shape][kind]
        path = self.model(shape) / f"{kind}{'-quick' if self.args.quick else ''}.jsonl"
        subprocess.run([sys.executable, peers.scripts() / "make_work.py", "--out", path, *options], check=True)
        return path

    def new_tokens(self, shape):
        return 4 if self.args.quick else NEW_TOKENS[shape]

    # Sections: (what Rollcall does, what the peer does or None, {name: function of a result of either}).

    def decode(self, shape):
        model, new = self.model(shape), self.new_tokens(shape)
        options = ("--batch", *(BATCHES[:2] if self.args.quick else BATCHES), "--new-tokens", new)

        def theirs():
            return {"decode": self.peer(peers.scripts() / "llama_cpp_decode.py", model, *options, "--threads",
                                        self.args.threads)}

        def rate(batch, name="decode_tokens_per_second"):
            return lambda result: next(r[name] for r in result["decode"] if r["batch"] == batch)

        values = {f"batch {b}": rate(b) for b in BATCHES if b in options}
        own = {}
        for b in BATCHES:
            if b not in options:
                continue
            own[f"batch {b}, of reading weights"] = lambda r, b=b: (
                rate(b, "weight_gb_per_s")(r) / r["rooflines"]["stream_read_gb_per_s"])
            own[f"batch {b}, of dot products"] = lambda r, b=b: (
                rate(b, "gflop_per_s")(r) / r["rooflines"]["bf16_dot_gflop_per_s"])
        return (lambda: self.ours("decode", model, *options)), theirs, values, own

    def rollouts(self, shape):
        model, work = self.model(shape), self.work(shape, "ragged")
        return (lambda: self.ours("rollouts", model, "--work", work),
                lambda: self.peer(peers.scripts() / "hf_generate.py", model, work, "--threads", self.args.threads)[-1],
                {"tokens/s": lambda r: r["tokens_per_second"]}, {})

    def group(self, shape):
        prompt = 128 if self.args.quick else 1024
        return (lambda: self.ours("group", self.model(shape), "--prompt-tokens", prompt, "--new-tokens",
                                  self.new_tokens(shape))), None, {}, {"of prefill and decode": lambda r: r["ratio"]}

    def update(self, shape):
        model, seconds = self.model(shape), 2 if self.args.quick else 10

        def run():
            return {mode: self.ours("update", model, "--on-weight-update", mode, "--seconds", seconds)
                    for mode in ("recompute", "keep")}

        return run, None, {}, {f"{mode}, of the throughput without": lambda r, mode=mode: r[mode]["ratio"]
                               for mode in ("recompute", "keep")}

    def learner(self, shape):
        model, work = self.model(shape), self.work(shape, "ragged")
        return (lambda: self.ours("learner", model, "--work", work),
                lambda: self.peer(HERE / "hf_learner.py", model, work, "--threads", self.args.threads)[-1],
                {"tokens/s": lambda r: r["tokens_per_second"], "peak MiB": lambda r: r["peak_rss_mib"],
                 "peak MiB beyond the start": lambda r: r["peak_rss_mib"] - r["rss_before_mib"]}, {})

    def checkpointing(self, shape):
        """Micro-batches large enough that activations are most of the memory."""
        model, work = self.model(shape), self.work(shape, "ragged")
        options = ("--work", work, "--micro-batch", 64)

        def run():
            plain, layers = (self.ours("learner", model, *options, *extra) for extra in ((), ("--checkpoint-layers",)))
            return {"memory": layers["activation_mib"] / plain["activation_mib"],
                    "peak": layers["peak_rss_mib"] / plain["peak_rss_mib"],
                    "time": plain["tokens_per_second"] / layers["tokens_per_second"], "plain": plain, "layers": layers}

        return run, None, {}, {"beyond weights and gradients, of without": lambda r: r["memory"],
                               "whole peak, of without": lambda r: r["peak"], "time, of without": lambda r: r["time"]}

    def head(self, _shape):
        vocabularies, rows = ((32000,), (128, 256)) if self.args.quick else ((32000, 151936), (512, 2048))

        def run():
            return {f"{v} x {n}": self.ours("head", "--vocab", v, "--rows", n) for v in vocabularies for n in rows}

        return run, None, {}, {f"{v} x {n}, working MiB": lambda r, k=f"{v} x {n}": r[k]["working_mib"]
                               for v in vocabularies for n in rows}

    def step(self, shape):
        model, work = self.model(shape), self.work(shape, "uniform")
        rollcall = pathlib.Path(self.args.worker).with_name("rollcall")
        return (lambda: grpo_step.run(rollcall, model, work, self.args.threads),
                lambda: self.peer(peers.scripts() / "trl_grpo_step.py", model, work, "--threads", self.args.threads,
                                  "--steps", 2)[-1],
                {"seconds a step": lambda r: r["step_seconds"]},
                {"of it training": lambda r: r["train_seconds"] / r["step_seconds"],
                 "log-prob gap": lambda r: r["logprob_gap"]})

    def measure(self, section, shape):
        """Adds pairs to the section until there are enough, and returns its summary."""
        key = f"{section} {shape}".strip() + (" quick" if self.args.quick else "")
        ours, theirs, values, own = SECTIONS[section](self, shape)
        absent = "no peer" if theirs is None else "--no-peers" if self.args.no_peers else None
        pairs = self.results.pairs(key)
        while not machine.enough(pairs, self.args.pairs, self.args.keep_disturbed) and (
                time.monotonic() < self.deadline):
            try:
                pairs.append(machine.run_pair(ours, None if absent else theirs))
            except peers.Absent as fault:
                self.say(f"  absent: {fault}")
                absent = str(fault)
                continue
            self.results.save()
        summary = machine.summarize(pairs, values, own, self.args.keep_disturbed)
        if absent:
            summary["peer"] = absent.splitlines()[0]
        return key, summary


SECTIONS = {"decode": Bench.decode, "rollouts": Bench.rollouts, "group": Bench.group, "update": Bench.update,
            "learner": Bench.learner, "checkpointing": Bench.checkpointing, "head": Bench.head, "step": Bench.step}
ONCE = ("head",)  # no matter which shape


def parse():
    ap = argparse.ArgumentParser(prog="./rollcall bench engine", description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--worker", required=True, help=argparse.SUPPRESS)
    ap.add_argument("--json", action="store_true", help="one JSON object on stdout, progress on stderr")
    ap.add_argument("--shape", nargs="+", choices=SHAPES, default=SHAPES)
    ap.add_argument("--section", nargs="+", choices=SECTIONS, default=tuple(SECTIONS))
    ap.add_argument("--pairs", type=int, default=5, help="undisturbed pairs wanted in each section (default 5)")
    ap.add_argument("--minutes", type=float, default=90, help="no further pair is begun after this (default 90)")
    ap.add_argument("--results", type=pathlib.Path, help="keep pairs here, and go on from those that are there")
    ap.add_argument("--threads", type=int, default=machine.cores(), help="of either side (default: all cores)")
    ap.add_argument("--no-peers", action="store_true", help="Rollcall and the rooflines alone")
    ap.add_argument("--keep-disturbed", action="store_true", help="count disturbed pairs too; the summary says so")
    ap.add_argument("--quick", action="store_true", help="one pair of little work, disturbed or not: does it all run?")
    args = ap.parse_args()
    if args.quick:
        args.pairs, args.keep_disturbed = 1, True
    return args


def main():
    args = parse()
    bench = Bench(args)
    try:
        peers.prepare(bench.say)
    except peers.Absent as fault:
        raise SystemExit(f"rollcall bench engine: the models are made in the peers' environment, which is absent: {fault}")
    report = {"threads": args.threads, "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "sections": {},
              "exact and fast": "the same kernels on the CPU: equal times, equal bits"}
    failed = []
    for section in args.section:
        for shape in ("",) if section in ONCE else args.shape:
            title = f"{section} {shape}".strip()
            bench.say(f"{title} …")
            try:
                key, summary = bench.measure(section, shape)
            except (RuntimeError, subprocess.SubprocessError) as fault:
                failed.append(title)
                key, summary = title, {"failed": str(fault)}
            report["sections"][key] = summary
            bench.say(text_of(summary))
    if args.json:
        print(json.dumps(report))
    if failed:
        bench.say(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
