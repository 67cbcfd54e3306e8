"""Baseline: forward and backward of transformers' eager model over the shared workload, with the log-prob of every
completion token; tokens per second and peak memory as JSON. Sequences of similar length share a padded micro-batch, its
best case."""
import argparse, json, pathlib, random, resource, time
import torch, transformers
from transformers import AutoModelForCausalLM


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def sequences(path, vocab):
    rng = random.Random(5)
    for line in path.read_text().splitlines():
        row = json.loads(line)
        for length in row["completion_lengths"]:
            yield row["prompt_ids"] + [rng.randrange(3, min(vocab, 500)) for _ in range(length)], len(row["prompt_ids"])


def forward(model, batch):
    longest = max(len(tokens) for tokens, _ in batch)
    ids = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens, _ in batch])
    mask = torch.tensor([[1] * len(tokens) + [0] * (longest - len(tokens)) for tokens, _ in batch])
    wanted = torch.tensor([[prompt <= t + 1 < len(tokens) for t in range(longest - 1)] for tokens, prompt in batch])
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    logprobs = torch.log_softmax(logits.float(), -1).gather(2, ids[:, 1:, None]).squeeze(2)
    return logprobs[wanted].sum()


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("model"), ap.add_argument("work", type=pathlib.Path)
    ap.add_argument("--micro-batch", type=int, default=8), ap.add_argument("--threads", type=int, default=2)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    before = peak_mib()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16, attn_implementation="eager")
    work = sorted(sequences(args.work, model.config.vocab_size), key=lambda s: len(s[0]))
    forward(model, work[:1]).backward()
    model.zero_grad()
    times = [0.0, 0.0]
    for i in range(0, len(work), args.micro_batch):
        start = time.perf_counter()
        loss = forward(model, work[i:i + args.micro_batch])
        middle = time.perf_counter()
        loss.backward()
        times[0] += middle - start
        times[1] += time.perf_counter() - middle
    tokens = sum(len(tokens) for tokens, _ in work)
    print(json.dumps({"what": "hf_learner", "transformers": transformers.__version__, "torch": torch.__version__,
                      "tokens": tokens, "forward_seconds": times[0], "backward_seconds": times[1],
                      "tokens_per_second": tokens / sum(times), "peak_rss_mib": peak_mib(),
                      "rss_before_mib": before}), flush=True)


if __name__ == "__main__":
    main()
