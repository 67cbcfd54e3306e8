"""A small language with a principle that a rule can check, and the models that speak it: what RLAIF is tried on.

Somebody asks for a word; the answer is the word and an ending, which is kind (ty, pls) or rude (duh, pah, meh):

    prompt     "bad?"              answer  "bad duh"
    critique   "C|bad?|bad duh|"           "duh is rude"
    revision   "R|bad?|bad duh|duh is rude|"  "bad pls"
    judgement  "J|bad?|bad duh|bad ty|"    "B"

The principle: an answer ends kindly. The policy learns to answer from demonstrations most of which are rude; a critic
and a judge learn from texts as above. Nobody tells the policy which endings are kind but the chain.
"""

import json
import os
import pathlib
import random
import subprocess
import sys
import zlib

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "integration"))
import tiny_model  # noqa: E402

KIND, RUDE = ("ty", "pls"), ("duh", "pah", "meh")
LETTERS = "abcdefgh"
VOCABULARY = ["<pad>", "<eos>", *"abcdefghijklmnopqrstuvwxyz ?|ABCRJ"]
# As a verifier's pattern: the rule.
PATTERN = " (ty|pls)$"

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16,
    "vocab_size": len(VOCABULARY), "max_position_embeddings": 96, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False,
    "eos_token_id": 1, "pad_token_id": 0, "torch_dtype": "float32",
}

CONSTITUTION = """name: manners
format: text
label_a: A
label_b: B
principles:
  - name: kind_ending
    weight: 2
    critique: "C|{prompt}|{answer}|"
    revision: "R|{prompt}|{answer}|{critique}|"
    judgement: "J|{prompt}|{answer_a}|{answer_b}|"
  # The same in other words, as far as these models are concerned.
  - name: no_scorn
    critique: "C|{prompt}|{answer}|"
    revision: "R|{prompt}|{answer}|{critique}|"
    judgement: "J|{prompt}|{answer_a}|{answer_b}|"
"""

SFT = """name: {name}
output_dir: {folder}
seed: {seed}
stage: sft
model: {{path: {folder}/init}}
data: {{train: [{{path: {folder}/data/{name}.jsonl}}]}}
learner:
  steps: {steps}
  prompts_per_step: 64
  optimizer: {{lr: 3e-3, schedule: cosine, warmup_steps: 20, min_lr_ratio: 0.1, beta2: 0.99}}
  checkpoint: {{every_steps: 100}}
"""


def write_model(folder, seed):
    """A Hugging Face folder with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text(json.dumps(tiny_model.tokenizer(VOCABULARY)))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>", "pad_token": "<pad>"}))
    binary = pathlib.Path(os.environ["ROLLCALL_BIN_DIR"], "rollcall")
    subprocess.run([binary, "init", folder, "--seed", str(seed)], check=True, capture_output=True)


def is_held_out(prompt):
    """A prompt belongs to one split for ever."""
    return zlib.crc32(prompt.encode()) % 4 == 0


class Speaker:
    """Draws prompts of one split and what is said about them."""

    def __init__(self, seed, held_out=False):
        self._random = random.Random(f"{seed} {held_out}")
        self._held_out = held_out

    def prompt(self):
        while True:
            prompt = "".join(self._random.choices(LETTERS, k=3)) + "?"
            if is_held_out(prompt) == self._held_out:
                return prompt

    def answer(self, prompt, kind_share):
        kind = self._random.random() < kind_share
        return f"{prompt[:-1]} {self._random.choice(KIND if kind else RUDE)}"

    def demonstration(self):
        prompt = self.prompt()
        return {"prompt": prompt, "completion": self.answer(prompt, 0.3)}

    def criticism(self):
        """A critique or a revision, in turn by chance."""
        prompt = self.prompt()
        answer = self.answer(prompt, 0.4)
        ending = answer.split()[-1]
        critique = f"{ending} is {'kind' if ending in KIND else 'rude'}"
        if self._random.random() < 0.5:
            return {"prompt": f"C|{prompt}|{answer}|", "completion": critique}
        revision = answer if ending in KIND else self.answer(prompt, 1)
        return {"prompt": f"R|{prompt}|{answer}|{critique}|", "completion": revision}

    def judgement(self, differ=False):
        """Which of two answers is kinder; either, where both are the same."""
        prompt = self.prompt()
        kinds = [True, False] if differ else [self._random.random() < 0.5 for _ in range(2)]
        self._random.shuffle(kinds)
        answers = [self.answer(prompt, float(kind)) for kind in kinds]
        better = "A" if kinds[0] > kinds[1] else "B" if kinds[1] > kinds[0] else self._random.choice("AB")
        return {"prompt": f"J|{prompt}|{answers[0]}|{answers[1]}|", "completion": better, "answer": better}


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_task(folder, seed, rows=6000, prompts=256, held_out=128):
    """Model, data and constitution; a function of its arguments."""
    write_model(folder / "init", seed)
    data = folder / "data"
    data.mkdir(exist_ok=True)
    speaker, other = Speaker(seed), Speaker(seed, held_out=True)
    write_rows(data / "policy.jsonl", [speaker.demonstration() for _ in range(rows)])
    write_rows(data / "critic.jsonl", [speaker.criticism() for _ in range(rows)])
    write_rows(data / "judge.jsonl", [speaker.judgement() for _ in range(rows)])
    # One model for both kinds of feedback.
    write_rows(data / "feedback.jsonl",
               [speaker.criticism() if i % 2 else speaker.judgement() for i in range(2 * rows)])
    write_rows(data / "prompts.jsonl", [{"prompt": speaker.prompt()} for _ in range(prompts)])
    write_rows(data / "held_out.jsonl", [{"prompt": other.prompt()} for _ in range(held_out)])
    write_rows(data / "judge_held_out.jsonl", [other.judgement(differ=True) for _ in range(256)])
    (folder / "constitution.yaml").write_text(CONSTITUTION)
