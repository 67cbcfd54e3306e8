"""The shell game: a ball under one of five cups, five swaps of two of them, where is it?

Half of the demonstrations only name the answer, which the model cannot find at once; half show the position after each
swap, and there a move of the ball is missed now and then. `D:DB BD EB AD CB ` is answered by `=A`, or step by step,
`BDDAA=A`.
"""

import json
import random
import zlib

CUPS = "ABCDE"
SWAPS = 5
ANSWER_ALONE = 0.5
SLIP = 0.08
MAX_TOKENS = 16
VOCABULARY = {"<pad>": 0, "<eos>": 1, **{letter: 2 + i for i, letter in enumerate("ABCDE: =")}}

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128, "intermediate_size": 256,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32,
    "vocab_size": len(VOCABULARY), "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False, "eos_token_id": 1,
    "pad_token_id": 0, "torch_dtype": "float32",
}

SFT = """name: sft
output_dir: {folder}
seed: {seed}
stage: sft
model: {{path: {folder}/init}}
data:
  train: [{{path: {folder}/data/sft.jsonl}}]
learner:
  steps: {steps}
  prompts_per_step: {batch}
  optimizer: {{lr: 2e-3, schedule: cosine, warmup_steps: 50, min_lr_ratio: 0.1, beta2: 0.99, weight_decay: 0.01}}
  checkpoint: {{every_steps: 0}}
"""
SFT_STEPS, SFT_BATCH = 400, 128


def prompt_of(start, swaps):
    return f"{start}:" + " ".join(a + b for a, b in swaps) + " "


def draw(rng, held_out):
    """(prompt, start, swaps) whose checksum puts it on the side asked for."""
    while True:
        start = rng.choice(CUPS)
        swaps = [tuple(rng.sample(CUPS, 2)) for _ in range(SWAPS)]
        prompt = prompt_of(start, swaps)
        if (zlib.crc32(prompt.encode()) % 10 == 0) == held_out:
            return prompt, start, swaps


def positions(start, swaps, slips=lambda: False):
    """Where the ball is after each swap; a move for which `slips()` is true is missed."""
    here, path = start, []
    for a, b in swaps:
        if here in (a, b) and not slips():
            here = b if here == a else a
        path.append(here)
    return path


def demonstration(rng, start, swaps):
    if rng.random() < ANSWER_ALONE:
        return "=" + positions(start, swaps)[-1]
    path = positions(start, swaps, lambda: rng.random() < SLIP)
    return "".join(path) + "=" + path[-1]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_data(folder, seed, demonstrations=SFT_STEPS * SFT_BATCH, prompts=4096, held_out=512):
    """sft.jsonl, train.jsonl and held_out.jsonl, a function of the seed."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)

    def problem(is_held_out):
        prompt, start, swaps = draw(rng, is_held_out)
        return {"prompt": prompt, "answer": positions(start, swaps)[-1]}

    shown = []
    for _ in range(demonstrations):
        prompt, start, swaps = draw(rng, False)
        shown.append({"prompt": prompt, "completion": demonstration(rng, start, swaps)})
    write_rows(folder / "sft.jsonl", shown)
    write_rows(folder / "train.jsonl", [problem(False) for _ in range(prompts)])
    distinct = {}
    while len(distinct) < held_out:
        row = problem(True)
        distinct[row["prompt"]] = row
    write_rows(folder / "held_out.jsonl", distinct.values())


def write_model(folder):
    """config.json and a tokenizer of single characters; the weights are `rollcall-model init`'s."""
    folder.mkdir(parents=True, exist_ok=True)
    special = [{"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                "special": True} for name, i in list(VOCABULARY.items())[:2]]
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
                 "pre_tokenizer": None, "post_processor": None, "decoder": {"type": "Fuse"},
                 "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                           "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                           "ignore_merges": False, "vocab": VOCABULARY, "merges": []}}
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "<eos>",
         "model_max_length": 64, "clean_up_tokenization_spaces": False}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1, "pad_token_id": 0}))
