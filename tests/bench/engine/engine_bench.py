#!/usr/bin/env python3
"""./rollcall bench engine: Rollcall's engine against the machine's own limits and against its peers, in one run.

The machine's rooflines are measured first. Then each section alternates Rollcall and a peer (A/B/A/B) on the same
weights, dtype (bfloat16), token ids and lengths, and gives the ratio of the pairs as median, minimum and maximum. A pair
during which other processes took more than 5 % of the cores is void. A peer that is absent is said to be absent.

Time on 2 cores: `tiny` about 10 minutes, `qwen2.5-0.5b` about 50, of which the peers take nearly all; --pairs and
--section shorten it, --no-peers leaves 1 and 4 minutes.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import grpo_step
import machine
import peers

SHAPES = ("tiny", "qwen2.5-0.5b")
# (make_work.py options): the larger model gets less of the same kind.
WORK = {"tiny": ("--prompts", "8", "--samples", "8", "--completion-tokens", "32", "256"),
        "qwen2.5-0.5b": ("--prompts", "4", "--samples", "8", "--completion-tokens", "32", "128")}
NEW_TOKENS = {"tiny": 64, "qwen2.5-0.5b": 32}
BATCHES = (1, 16, 64)


class Bench:
    def __init__(self, args, folder):
        self.args, self.folder, self.rooflines, self.peer_fault = args, folder, {}, None
        self.deadline = time.monotonic() + 60 * args.minutes

    def say(self, text):
        print(text, file=sys.stderr if self.args.json else sys.stdout, flush=True)

    def ours(self, command, *arguments):
        done = subprocess.run([self.args.worker, command, *map(str, arguments), "--threads", str(self.args.threads)],
                              capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{command}: exit code {done.returncode}\n{done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])

    def peer(self, script, *arguments):
        return peers.run(script, *arguments, threads=self.args.threads)

    def model(self, shape, uniform=False):
        """Folder of a random model, and its work: ragged, or with completions of one length."""
        folder = self.folder / shape
        if not (folder / "model.safetensors").exists():
            self.peer(peers.scripts() / "make_model.py", "--shape", shape, "--out", folder)
            for name, extra in (("ragged.jsonl", ()), ("uniform.jsonl", ("--uniform",))):
                subprocess.run([sys.executable, peers.scripts() / "make_work.py", "--out", folder / name, *WORK[shape],
                                *extra], check=True)
        return folder, folder / ("uniform.jsonl" if uniform else "ragged.jsonl")

    # A section measures Rollcall alone where the peer is absent.
    def compare(self, run_ours, run_theirs, values):
        """values: {name: function of a result}; returns {name: summary}."""
        if self.peer_fault is None:
            try:
                pairs = machine.interleave(run_ours, run_theirs, self.args.pairs, self.deadline)
                return {name: machine.summarize(pairs, value, self.args.keep_disturbed)
                        for name, value in values.items()}
            except peers.Absent as fault:
                self.say(f"  absent: {fault}")
        results, loads = [], []
        for _ in range(min(3, self.args.pairs)):
            watch = machine.LoadWatch()
            results.append(run_ours())
            loads.append(watch.other_load())
        return {name: {"ours": machine.spread([value(r) for r in results]), "other_load": machine.spread(loads),
                       "peer": "absent"} for name, value in values.items()}

    def rooflines_section(self, _shape):
        watch = machine.LoadWatch()
        self.rooflines = {**self.ours("rooflines"), "other_load": watch.other_load()}
        return self.rooflines

    def decode_section(self, shape):
        model, _ = self.model(shape)
        new = NEW_TOKENS[shape]
        options = ("--batch", *BATCHES, "--new-tokens", new)

        def run_theirs():
            lines = self.peer(peers.scripts() / "llama_cpp_decode.py", model, *options, "--threads", self.args.threads)
            return {"decode": lines}

        def rate(batch):
            return lambda result: next(
                r["decode_tokens_per_second"] for r in result["decode"] if r["batch"] == batch)

        last = {}

        def run_ours():
            last.update(self.ours("decode", model, *options))
            return dict(last)

        summary = self.compare(run_ours, run_theirs, {f"batch {b}": rate(b) for b in BATCHES})
        for line in last["decode"]:
            entry = summary[f"batch {line['batch']}"]
            entry["weight_gb_per_s"], entry["gflop_per_s"] = line["weight_gb_per_s"], line["gflop_per_s"]
            if self.rooflines:
                entry["of_stream_read"] = line["weight_gb_per_s"] / self.rooflines["stream_read_gb_per_s"]
                entry["of_bf16_dot"] = line["gflop_per_s"] / self.rooflines["bf16_dot_gflop_per_s"]
        return summary

    def rollouts_section(self, shape):
        model, work = self.model(shape)
        return self.compare(
            lambda: self.ours("rollouts", model, "--work", work),
            lambda: self.peer(peers.scripts() / "hf_generate.py", model, work, "--threads", self.args.threads)[-1],
            {"tokens/s": lambda r: r["tokens_per_second"]})

    def group_section(self, shape):
        model, _ = self.model(shape)
        results, loads = [], []
        for _ in range(min(5, max(3, self.args.pairs))):
            watch = machine.LoadWatch()
            results.append(self.ours("group", model, "--prompt-tokens", 1024, "--new-tokens", NEW_TOKENS[shape]))
            loads.append(watch.other_load())
        return {"ratio": machine.spread([r["ratio"] for r in results]), "other_load": machine.spread(loads),
                "last": results[-1]}

    def learner_section(self, shape):
        model, work = self.model(shape)
        theirs = pathlib.Path(__file__).resolve().parent / "hf_learner.py"
        summary = self.compare(lambda: self.ours("learner", model, "--work", work),
                               lambda: self.peer(theirs, model, work, "--threads", self.args.threads)[-1],
                               {"tokens/s": lambda r: r["tokens_per_second"],
                                "peak MiB": lambda r: r["peak_rss_mib"],
                                "peak MiB beyond the start": lambda r: r["peak_rss_mib"] - r["rss_before_mib"]})
        watch = machine.LoadWatch()
        plain, layers = (self.ours("learner", model, "--work", work, *extra) for extra in ((), ("--checkpoint-layers",)))
        grown = [r["peak_rss_mib"] - r["rss_before_mib"] for r in (plain, layers)]
        summary["activation_checkpointing"] = {
            "peak_ratio": grown[1] / grown[0], "time_ratio": plain["tokens_per_second"] / layers["tokens_per_second"],
            "other_load": watch.other_load()}
        return summary

    def head_section(self, _shape):
        return [self.ours("head", "--vocab", vocab, "--rows", rows)
                for vocab in (32000, 151936) for rows in (512, 4096)]

    def step_section(self, shape):
        model, work = self.model(shape, uniform=True)
        script = peers.scripts() / "trl_grpo_step.py"
        rollcall = pathlib.Path(self.args.worker).with_name("rollcall")
        return self.compare(
            lambda: grpo_step.run(rollcall, model, work, self.args.threads),
            lambda: self.peer(script, model, work, "--threads", self.args.threads, "--steps", 2)[-1],
            {"seconds a step": lambda r: r["step_seconds"]})


SECTIONS = {"rooflines": Bench.rooflines_section, "decode": Bench.decode_section, "rollouts": Bench.rollouts_section,
            "group": Bench.group_section, "learner": Bench.learner_section, "head": Bench.head_section,
            "step": Bench.step_section}
ONCE = ("rooflines", "head")  # no matter which shape


def text_of(value, depth=1):
    """Readable lines of a section's result."""
    pad = "  " * depth
    if isinstance(value, list):
        return "\n".join(text_of(item, depth) for item in value)
    if not isinstance(value, dict):
        return f"{pad}{value}"
    if set(value) == {"median", "min", "max", "count"}:
        return f"{pad}{value['median']:.4g} ({value['min']:.4g} to {value['max']:.4g}, {value['count']})"
    if all(not isinstance(v, (dict, list)) for v in value.values()):
        return pad + ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items())
    return "\n".join(f"{pad}{k}: {text_of(v, depth + 1).strip()}" if not isinstance(v, dict) or "median" in v or all(
        not isinstance(x, (dict, list)) for x in v.values()) else f"{pad}{k}:\n{text_of(v, depth + 1)}"
                     for k, v in value.items())


def parse():
    ap = argparse.ArgumentParser(prog="./rollcall bench engine", description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--worker", required=True, help=argparse.SUPPRESS)
    ap.add_argument("--json", action="store_true", help="one JSON object on stdout, progress on stderr")
    ap.add_argument("--shape", nargs="+", choices=SHAPES, default=SHAPES)
    ap.add_argument("--section", nargs="+", choices=SECTIONS, default=tuple(SECTIONS))
    ap.add_argument("--pairs", type=int, default=5, help="undisturbed pairs wanted in each section (default 5)")
    ap.add_argument("--minutes", type=float, default=90, help="no further pair is begun after this (default 90)")
    ap.add_argument("--threads", type=int, default=machine.cores(), help="of either side (default: all cores)")
    ap.add_argument("--no-peers", action="store_true", help="Rollcall and the rooflines alone")
    ap.add_argument("--keep-disturbed", action="store_true", help="count disturbed pairs too; the summary says so")
    return ap.parse_args()


def main():
    args = parse()
    results = {"threads": args.threads, "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "sections": {}}
    with tempfile.TemporaryDirectory(prefix="engine_bench.") as folder:
        bench = Bench(args, pathlib.Path(folder))
        try:
            peers.prepare(bench.say)
        except peers.Absent as fault:
            raise SystemExit(f"rollcall bench engine: the models are made in the peers' environment, which is absent: {fault}")
        if args.no_peers:
            bench.peer_fault = "--no-peers"
        for section in args.section:
            for shape in ("",) if section in ONCE else args.shape:
                title = f"{section} {shape}".strip()
                bench.say(f"{title} …")
                result = SECTIONS[section](bench, shape)
                results["sections"][title] = result
                bench.say(text_of(result))
    results["exact and fast"] = "the same kernels on the CPU: equal times, equal bits"
    if args.json:
        print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
