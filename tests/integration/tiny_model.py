"""A Hugging Face folder of a random Llama that speaks characters, made by `rollcall init`."""

import json
import os
import pathlib
import subprocess

VOCABULARY = ["<pad>", "<eos>", *"0123456789+=, "]
EOS = 1
CONTEXT = 64

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    "vocab_size": len(VOCABULARY), "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False,
    "eos_token_id": EOS, "torch_dtype": "float32",
}


def encode(text):
    return [VOCABULARY.index(character) for character in text]


def tokenizer(vocabulary=VOCABULARY, special_tokens=2):
    """tokenizer.json of one token per character of `vocabulary`, whose first `special_tokens` are special."""
    special = [{"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for i, text in enumerate(vocabulary[:special_tokens])]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
            "pre_tokenizer": None, "post_processor": None, "decoder": {"type": "Fuse"},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                      "ignore_merges": False, "vocab": {text: i for i, text in enumerate(vocabulary)}, "merges": []}}


def write(folder, seed=3, **overrides):
    """Makes `folder` and returns it; the same seed gives the same weights. `overrides`: of the config's fields."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **overrides}))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>", "pad_token": "<pad>"}))
    binary = pathlib.Path(os.environ["ROLLCALL_BIN_DIR"], "rollcall")
    subprocess.run([binary, "init", folder, "--seed", str(seed)], check=True, capture_output=True)
    return folder


def write_reward_model(folder, seed=5):
    """As `write`: a random reward model that speaks the same characters."""
    return write(folder, seed, architectures=["LlamaForSequenceClassification"], pad_token_id=0,
                 id2label={"0": "LABEL_0"}, label2id={"LABEL_0": 0})
