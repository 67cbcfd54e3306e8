"""Low-rank adapters as PEFT makes and reads them; runs in the environment of environment.py.

In, as JSON, a list of requests; out, one answer each:
  {"make": folder, "base": folder, "settings": {…}}   writes an adapter with random A and B to the folder; null
  {"score": [token ids], "base": folder, "adapter": folder or null}
      {"misfits": names that the adapter's file and the model do not share, "logprobs": [position][vocabulary], nats}
"""

import contextlib
import io
import json
import sys
import warnings

import peft
import torch
import transformers


def load(base):
    return transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()


def make(folder, base, settings):
    torch.manual_seed(7)
    model = peft.get_peft_model(load(base), peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            with torch.no_grad():
                parameter.copy_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)


def score(ids, base, adapter):
    model, misfits = load(base), []
    if adapter:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = peft.PeftModel.from_pretrained(model, adapter).eval()
        misfits += [str(warning.message) for warning in caught if "adapter keys" in str(warning.message)]
        state = peft.get_peft_model_state_dict(model)
        stored = peft.load_peft_weights(adapter, device="cpu")
        misfits += sorted(set(state) ^ set(stored))
        misfits += [name for name in stored if not torch.equal(state[name], stored[name])]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
    return {"misfits": misfits, "logprobs": torch.log_softmax(logits.double(), dim=-1).tolist()}


def answer(request):
    if "make" in request:
        return make(request["make"], request["base"], request["settings"])
    return score(request["score"], request["base"], request["adapter"])


def main():
    requests = json.load(sys.stdin)
    with contextlib.redirect_stdout(io.StringIO()):
        answers = [answer(request) for request in requests]
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
