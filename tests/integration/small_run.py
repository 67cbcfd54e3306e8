"""A run that is small enough for any test: a tiny model, sums as prompts, rewards by length."""

import json
import pathlib

import tiny_model

CONFIG = """
name: run
output_dir: {folder}
model: {{path: {folder}/model}}
data: {{train: [{{path: {folder}/train.jsonl}}]}}
sampling: {{max_tokens: 8}}
algorithm: {{preset: grpo, samples_per_prompt: 4, kl_coefficient: 0.01}}
reward: {{verifiers: [{{name: length, length: {{max_tokens: 6}}}}]{reward}}}
generator: {{threads: 1, kv_cache_bytes: 16777216{generator}}}
reference: {{threads: 1{reference}}}
learner: {{threads: 1, steps: {steps}, prompts_per_step: 4, on_gap: warn, peak_tflops: 0.1}}
"""
ENDLESS = 100000


def write(folder):
    """Model and prompts of `config` in `folder`."""
    folder = pathlib.Path(folder)
    tiny_model.write(folder / "model")
    rows = [{"prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in range(20)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def config(folder, steps=ENDLESS, generator=None, reward=None, reference=None):
    """The text of a configuration. Services whose address is not given are started by `rollcall train`."""
    return CONFIG.format(folder=folder, steps=steps,
                         generator=f', addresses: ["{generator}"]' if generator else "",
                         reward=f', address: "{reward}"' if reward else "",
                         reference=f', addresses: ["{reference}"]' if reference else "")
