"""A whole GRPO step of Rollcall, as `rollcall train` runs it: every service, the push of the new weights and the ledger
included. Completions are as long as sampling.max_tokens says, all of them."""

import json
import pathlib
import shutil
import statistics
import subprocess
import tempfile

RUN = """
name: run
output_dir: {folder}
seed: 7
model: {{path: {model}, dtype: bfloat16, context_tokens: 4096}}
data:
  train: [{{path: {folder}/prompts.jsonl}}]
sampling: {{max_tokens: {tokens}, ignore_eos: true}}
algorithm: {{samples_per_prompt: {samples}, kl_coefficient: 0}}
reward:
  verifiers:
    - {{name: letters, regex: {{pattern: "[aeiou]"}}}}
generator: {{threads: {threads}, kv_cache_bytes: 1000000000}}
learner:
  steps: 3
  prompts_per_step: {prompts}
  threads: {threads}
  optimizer: {{lr: 1e-5}}
  checkpoint: {{every_steps: 0}}
"""


def run(rollcall, model, work, threads):
    """Seconds of a step: the median of the steps after the first. `work` decides how many prompts, samples and tokens."""
    rows = [json.loads(line) for line in pathlib.Path(work).read_text().splitlines()]
    folder = pathlib.Path(tempfile.mkdtemp(prefix="engine_bench_step."))
    try:
        with open(folder / "prompts.jsonl", "w") as out:
            for i in range(3 * len(rows)):
                # About one token a word.
                words = " ".join(f"the {'abcdefghij'[(i + j) % 10]}" for j in range(len(rows[i % len(rows)]["prompt_ids"]) // 2))
                out.write(json.dumps({"prompt": words, "answer": str(i)}) + "\n")
        config = folder / "run.yaml"
        config.write_text(RUN.format(folder=folder, model=model, threads=threads, prompts=len(rows),
                                     samples=len(rows[0]["completion_lengths"]),
                                     tokens=max(rows[0]["completion_lengths"])))
        done = subprocess.run([rollcall, "train", config], capture_output=True, text=True, cwd=folder)
        if done.returncode != 0:
            raise RuntimeError(f"rollcall train: exit code {done.returncode}\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
        metrics = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
        steps = [row for row in metrics if "time/step_seconds" in row][1:]
        return {"what": "rollcall_grpo_step", "step_seconds": statistics.median(r["time/step_seconds"] for r in steps),
                "train_seconds": statistics.median(r["time/train_seconds"] for r in steps),
                "logprob_gap": max(r.get("logprob_gap", 0.0) for r in steps)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
