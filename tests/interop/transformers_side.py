"""What transformers makes of model folders; runs in the environment of environment.py.

In, as JSON: {"folders": [path, …], "texts": [text, …], "sequences": [[token id, …], …], "completions": the same}.
Out, one object a folder:
  misfits                    names of tensors that are missing, left over or of another shape
  token_ids                  of each text, by tokenizer.json as it is
  token_ids_by_architecture  by the class that transformers has for the model: for Llama it builds another tokenizer from
                             the vocabulary, which differs after special tokens and leading spaces
  decoded                    the text of each completion, without special tokens
  logprobs                   of each sequence's tokens after the first, nats
"""

import json
import sys

import torch
import transformers


def describe(folder, texts, sequences, completions):
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    by_architecture = transformers.AutoTokenizer.from_pretrained(folder)
    misfits = [str(what) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for what in loading[kind]]
    logprobs = []
    for ids in sequences:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :-1]
        chosen = torch.log_softmax(logits.double(), dim=-1).gather(1, torch.tensor(ids[1:])[:, None])
        logprobs.append(chosen[:, 0].tolist())
    return {"misfits": misfits, "logprobs": logprobs,
            "token_ids": [tokenizer(text)["input_ids"] for text in texts],
            "token_ids_by_architecture": [by_architecture(text)["input_ids"] for text in texts],
            "decoded": [tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                        for ids in completions]}


def main():
    asked = json.load(sys.stdin)
    json.dump([describe(folder, asked["texts"], asked["sequences"], asked["completions"]) for folder in asked["folders"]], sys.stdout)


if __name__ == "__main__":
    main()
