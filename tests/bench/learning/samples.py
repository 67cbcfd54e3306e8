"""What the recorded stages learn from: completions of the SFT model, judged by the task's rule."""

import json
import random

REWARD = 'reward.verifiers=[{name: correct, exact_match: {answer_column: answer, after: "="}}]'
SAMPLES = 8
# Of a prompt with both kinds at most this many pairs: a third says little that two did not.
PAIRS_PER_PROMPT = 2
PROMPTS = 1024
HELD_OUT_PROMPTS = 256


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_rows(path, rows):
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
    partial.replace(path)


def distinct(rows, count):
    return list({row["prompt"]: row for row in rows}.values())[:count]


def sample(rollcall, model, prompts, out, seed, samples=SAMPLES):
    """[{prompt, texts: [(text, right, ended)]}] of each prompt of the file, in its order."""
    rollcall("eval", model, "--data", prompts, "-k", samples, "--out", out, "--json", "--set", "sampling.max_tokens=32",
             "--set", REWARD, "--set", f"seed={seed}")
    rows = [{"prompt": row["prompt"], "texts": []} for row in read_rows(prompts)]
    for made in read_rows(out):
        ended = made["finish_reason"] in ("stop_token", "stop_string")
        rows[made["prompt"]]["texts"].append((made["text"], made["reward"] == 1, ended))
    return rows


def pairs_of(rows, rng, per_prompt=PAIRS_PER_PROMPT):
    pairs = []
    for row in rows:
        right = sorted({text for text, is_right, ended in row["texts"] if is_right and ended})
        wrong = sorted({text for text, is_right, _ in row["texts"] if not is_right} - {""})
        for chosen, rejected in zip(rng.sample(right, min(per_prompt, len(right))),
                                    rng.sample(wrong, min(per_prompt, len(wrong)))):
            pairs.append({"prompt": row["prompt"], "chosen": chosen, "rejected": rejected})
    return pairs


def labelled(rows):
    return [{"prompt": row["prompt"], "completion": text, "label": is_right}
            for row in rows for text, is_right, _ in row["texts"] if text]


def verified(rows):
    return [{"prompt": row["prompt"], "completion": text}
            for row in rows for text, is_right, ended in row["texts"] if is_right and ended]


def prepare(rollcall, folder, seed):
    """Samples of the SFT model in `folder`, in folder/offline: made, or found from an earlier run."""
    home = folder / "offline"
    home.mkdir(exist_ok=True)
    finished = home / "held_out_pairs.jsonl"
    if finished.exists():
        return home
    for name, source, count in (("prompts", "train", PROMPTS), ("held_out_prompts", "held_out", HELD_OUT_PROMPTS)):
        write_rows(home / f"{name}.jsonl", distinct(read_rows(folder / "data" / f"{source}.jsonl"), count))
    model = folder / "sft" / "final"
    rows = sample(rollcall, model, home / "prompts.jsonl", home / "samples.jsonl", seed)
    write_rows(home / "judged.jsonl", rows)
    held_out = sample(rollcall, model, home / "held_out_prompts.jsonl", home / "held_out_samples.jsonl", seed + 1000)
    write_rows(finished, pairs_of(held_out, random.Random(seed), per_prompt=1))
    return home


def write_data(home, kind, prompts, seed):
    """The file of `kind` of the first `prompts` prompts; returns it and its number of rows."""
    path = home / f"{kind}_{prompts}.jsonl"
    rows = read_rows(home / "judged.jsonl")[:prompts]
    made = {"pairs": lambda: pairs_of(rows, random.Random(seed)), "labelled": lambda: labelled(rows),
            "verified": lambda: verified(rows)}[kind]()
    write_rows(path, made)
    return path, len(made)


def win_rate(rows, others):
    """Probability that a sample of `rows` beats one of `others` on the same prompt; a tie counts half."""
    won = []
    for row, other in zip(rows, others):
        right = sum(is_right for _, is_right, _ in row["texts"]) / len(row["texts"])
        right_other = sum(is_right for _, is_right, _ in other["texts"]) / len(other["texts"])
        won.append(0.5 + (right - right_other) / 2)
    return sum(won) / len(won)
