"""Small models of every family as transformers makes them, with the numbers that it computes: cases for
`rollcall verify --suite models`, beside those of shared/data/golden, whose README describes the format.

make_models.py OUT [CASE …]             makes OUT/CASE and its numbers
make_models.py --existing OUT CASE …    the numbers of folders that are there; each must load without a misfit

Runs in the environment of environment.py. What the cases add to the golden files: SmolLM3, the rope types yarn, dynamic
and longrope, windows and layouts of layers of the families that may have them, biases, heads on every family. Weights are
random, biases and norms disturbed, so that a setting that is misread shows. The numbers come from a run in float64,
rounded once: what remains is the rounding error of the program under test.
"""

import argparse
import json
import pathlib

import safetensors.torch
import torch
import transformers
from torch.overrides import TorchFunctionMode

from model_cases import BASE, CASES, HEADS, STORED

SEED = 20
GAIN = 1.1  # of each matrix: large enough that every layer matters, small enough that rounding does not grow
LENGTHS = (5, 37, 100)
GREEDY_TOKENS = 24
# What a decision between two tokens or two experts must be apart, so that rounding cannot turn it.
GREEDY_GAP, ROUTER_GAP = 2e-3, 1e-3
SAMPLES = 8
ADAMW = {"lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.01}
STEPS, CLIP = 5, 1.0


class Double(TorchFunctionMode):
    """A float64 run of models that take some steps in float32 whatever their dtype: those, too, stay in float64."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        def wide(value):
            return torch.float64 if value is torch.float32 else value

        if function is torch.Tensor.float:
            return args[0].double()
        return function(*map(wide, args), **{key: wide(value) for key, value in (kwargs or {}).items()})


def class_of(prefix, head):
    # The one class without "Text" in its name.
    return getattr(transformers, ("Gemma3" if (prefix, head) == ("Gemma3Text", "causal_lm") else prefix) + HEADS[head])


def make(prefix, config, head, seed):
    torch.manual_seed(seed)
    settings = getattr(transformers, prefix + "Config")(**{**BASE, **config}, attn_implementation="eager")
    model = class_of(prefix, head)(settings).eval()
    for name, weight in model.named_parameters():
        with torch.no_grad():
            if weight.dim() == 1:
                weight += 0.2 * torch.randn_like(weight)
            else:
                # Keeps the size of what passes through, the embedding and the head aside.
                width = weight.shape[-1] if "embed" not in name and "lm_head" not in name else 4
                weight.copy_(torch.randn_like(weight) / width ** 0.5 * GAIN)
    return model


def sequences():
    draw = torch.Generator().manual_seed(SEED)
    return [torch.randint(3, BASE["vocab_size"], (length,), generator=draw) for length in LENGTHS]


def outputs(model, ids):
    return model(input_ids=ids[None], use_cache=False).logits[0]


def values(model, head, ids):
    """The head's value at every token."""
    if head == "critic":
        return outputs(model, ids)[:, 0]
    return model.score(model.model(input_ids=ids[None], use_cache=False).last_hidden_state)[0, :, 0]


def cross_entropy(model, ids):
    return torch.nn.functional.cross_entropy(outputs(model, ids)[:-1], ids[1:], reduction="sum")


def mean_loss(model, all_ids):
    return sum(cross_entropy(model, ids) for ids in all_ids) / sum(len(ids) - 1 for ids in all_ids)


def checkpoint_names(model, tensors):
    """{name in the model: tensor} under the names and in the pieces of the checkpoint file."""
    split = {}
    for name, tensor in tensors.items():
        place, _, kind = name.rpartition(".experts.")
        if not place:
            split[name] = tensor
            continue
        mixtral = model.config.model_type == "mixtral"
        place = place.replace(".mlp", ".block_sparse_moe") if mixtral else place
        gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
        for expert, matrix in enumerate(tensor):
            parts = {down: matrix} if kind == "down_proj" else dict(zip((gate, up), matrix.chunk(2)))
            split.update({f"{place}.experts.{expert}.{part}.weight": piece for part, piece in parts.items()})
    if model.config.model_type == "mixtral":
        split = {name.replace(".mlp.gate.", ".block_sparse_moe.gate."): tensor for name, tensor in split.items()}
    return split


def gradients(model):
    return checkpoint_names(model, {name: weight.grad if weight.grad is not None else torch.zeros_like(weight)
                                    for name, weight in model.named_parameters()})


def summary(tensor):
    flat = tensor.detach().double().flatten()
    places = sorted({index * flat.numel() // SAMPLES for index in range(SAMPLES)})
    return {"shape": list(tensor.shape), "l2": flat.norm().item(), "sum": flat.sum().item(),
            "abs_sum": flat.abs().sum().item(), "sampled_flat_index": places,
            "sampled_value": [flat[place].item() for place in places]}


def summaries(tensors):
    return {name: summary(tensor) for name, tensor in sorted(tensors.items())}


def norm(tensors):
    return torch.stack([tensor.double().norm() for tensor in tensors.values()]).norm().item()


def greedy(model, ids):
    """The likeliest tokens, and how near the closest decision was."""
    gap = float("inf")
    for _ in range(GREEDY_TOKENS):
        best = outputs(model, ids)[-1].topk(2)
        gap = min(gap, (best.values[0] - best.values[1]).item())
        ids = torch.cat([ids, best.indices[:1]])
    return ids[-GREEDY_TOKENS:], gap


def router_gap(model, all_ids):
    """How near an expert that was not chosen came to one that was."""
    gaps = [float("inf")]

    def look(module, _, output):
        ordered = output[0].sort(-1, descending=True).values
        if ordered.shape[-1] > module.top_k:
            gaps.append((ordered[:, module.top_k - 1] - ordered[:, module.top_k]).min().item())

    hooks = [module.register_forward_hook(look) for name, module in model.named_modules() if name.endswith("mlp.gate")]
    for ids in all_ids:
        model.model(input_ids=ids[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return min(gaps)


def language_numbers(model, all_ids):
    expected, tensors = {}, {}
    with torch.no_grad():
        for index, ids in enumerate(all_ids):
            logits = outputs(model, ids)
            tensors[f"seq{index}.logits"] = logits
            for temperature in (1.0, 0.7):
                chosen = (logits / temperature).log_softmax(-1)[:-1].gather(1, ids[1:, None])
                tensors[f"seq{index}.logprobs_t{temperature}"] = chosen[:, 0]
            tensors[f"seq{index}.entropy_t1.0"] = torch.distributions.Categorical(logits=logits).entropy()
            tensors[f"seq{index}.greedy"], gap = greedy(model, ids)
            expected["greedy_gap"] = min(gap, expected.get("greedy_gap", gap))
            mean_ce = -tensors[f"seq{index}.logprobs_t1.0"].mean().item()
            expected[f"seq{index}"] = {"mean_ce": mean_ce}
    optimizer = torch.optim.AdamW(model.parameters(), lr=ADAMW["lr"], betas=ADAMW["betas"], eps=ADAMW["eps"],
                                  weight_decay=ADAMW["weight_decay"])
    steps = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = mean_loss(model, all_ids)
        loss.backward()
        now = gradients(model)
        if step == 0:
            expected |= {"token_mean_ce": loss.item(), "grads": summaries(now), "grad_norm": norm(now)}
            tensors |= {f"grad.{name}": tensor.clone() for name, tensor in now.items()}
        steps.append({"step": step, "loss_before": loss.item(), "grad_norm_before_clip": norm(now)})
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    with torch.no_grad():
        after = mean_loss(model, all_ids).item()
    expected["adamw"] = {"settings": ADAMW, "grad_clip": CLIP, "steps": steps, "loss_after": after,
                         "params_after": summaries(checkpoint_names(model, dict(model.named_parameters())))}
    return expected, tensors


def value_numbers(model, head, all_ids):
    tensors, draw = {}, torch.Generator().manual_seed(SEED)
    for index, ids in enumerate(all_ids):
        cotangent = torch.randn(len(ids), generator=draw) / sum(LENGTHS)
        tensors[f"seq{index}.cotangent"] = cotangent
        tensors[f"seq{index}.values"] = value = values(model, head, ids)
        (value * cotangent.to(value.dtype)).sum().backward()
        if head == "reward":
            with torch.no_grad():
                tensors[f"seq{index}.reward"] = outputs(model, ids)
    padded = torch.nn.utils.rnn.pad_sequence(all_ids, batch_first=True, padding_value=model.config.pad_token_id)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(ids) for ids in all_ids], batch_first=True)
    with torch.no_grad():
        tensors["right_padded.logits"] = model(input_ids=padded, attention_mask=mask, use_cache=False).logits
    now = gradients(model)
    tensors |= {f"grad.{name}": tensor for name, tensor in now.items()}
    return {"grads": summaries(now)}, tensors


def numbers(model, head, all_ids):
    return language_numbers(model, all_ids) if head == "causal_lm" else value_numbers(model, head, all_ids)


def too_close(model, head, all_ids):
    """Whether a decision between two tokens or two experts could be turned by rounding."""
    with torch.no_grad():
        if router_gap(model, all_ids) < ROUTER_GAP:
            return True
        return head == "causal_lm" and min(greedy(model, ids)[1] for ids in all_ids) < GREEDY_GAP


def make_clear(name, all_ids):
    prefix, config, head = CASES[name]
    for seed in range(SEED, SEED + 20):
        model = make(prefix, config, head, seed)
        if not too_close(model, head, all_ids):
            return model
    raise RuntimeError(f"{name}: every seed gives a decision that is too close")


def save(model, folder, dtype="float32", **options):
    model.to(getattr(torch, dtype)).save_pretrained(folder, **options)


def load(folder, name):
    prefix, _, head = CASES[name]
    model, loading = class_of(prefix, head).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    misfits = [str(what) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for what in loading[kind]]
    if misfits or loading.get("error_msgs"):
        raise RuntimeError(f"{folder}: {misfits} {loading.get('error_msgs')}")
    return model.eval()


def write_numbers(out, name, model, all_ids):
    head = CASES[name][2]
    model.set_experts_implementation("eager")  # the one that float64 has
    with Double():
        expected, tensors = numbers(model.double(), head, all_ids)
    tensors |= {f"seq{index}.input_ids": ids for index, ids in enumerate(all_ids)}
    expected |= {"name": name, "head": head, "versions": {"torch": torch.__version__,
                                                          "transformers": transformers.__version__}}
    stored = {key: (tensor.detach().float() if tensor.is_floating_point() else tensor).contiguous()
              for key, tensor in tensors.items()}
    safetensors.torch.save_file(stored, out / f"{name}.expected.safetensors")
    (out / f"{name}.expected.json").write_text(json.dumps(expected, indent=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--existing", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    all_ids = sequences()
    for name in options.cases:
        if not options.existing:
            save(make_clear(name, all_ids), options.out / name, **STORED.get(name, {}))
        write_numbers(options.out, name, load(options.out / name, name), all_ids)


if __name__ == "__main__":
    main()
