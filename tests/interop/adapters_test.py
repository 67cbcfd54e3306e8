"""Low-rank adapters both ways: PEFT and transformers load what Rollcall trained, the adapter and the merged model, and
compute the same; Rollcall serves what PEFT saved.

One command: ./rollcall test -L slow -R interop
"""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

import environment
import families_test as families

BIN = pathlib.Path(os.environ["ROLLCALL_BIN_DIR"])
HERE = pathlib.Path(__file__).resolve().parent
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]

# Cases of model_cases.py, with what Rollcall adapts (empty: everything) and what PEFT does.
CASES = {
    "llama_bias": ([], ["q_proj", "down_proj"]),
    "qwen2_window": (["q_proj", "v_proj", "up_proj"], "all-linear"),
    "gemma2_untied": ([], ["gate_proj", "o_proj"]),
    "phi3_window": ([], ["qkv_proj", "gate_up_proj"]),
    "olmo2_tied": (["mlp.down_proj", "k_proj"], ["layers.1.self_attn.v_proj"]),
    "qwen3_moe_mixed": (ATTENTION, ["o_proj"]),
}
# Largest difference of a log-prob, nats: two float32 programs.
TOLERANCE = 1e-4


class AdaptersTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory(prefix="rollcall_adapters_")
        cls.addClassCleanup(scratch.cleanup)
        cls.folder = pathlib.Path(scratch.name)
        cls.python, cls.variables = environment.prepare()
        cls.made = cls.folder / "made/models"
        cls.run_python("make_models.py", cls.made, *CASES)
        for name in CASES:
            (cls.made / name / "tokenizer.json").write_text(json.dumps(families.tokenizer()))

    @classmethod
    def run_python(cls, script, *arguments, stdin=""):
        done = subprocess.run([cls.python, HERE / script, *arguments], capture_output=True, text=True, input=stdin,
                              env={**cls.variables, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    def peft(self, *requests):
        return json.loads(self.run_python("peft_side.py", stdin=json.dumps(requests)))

    def rollcall(self, *arguments):
        done = subprocess.run([BIN / "rollcall", *map(str, arguments)], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, f"{arguments}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return done.stdout

    def generate(self, model, *more):
        """{"prompt": ids, "token_ids", "top_logprobs"} of a greedy completion."""
        prompt = families.PROMPTS[1]
        line = self.rollcall("generate", model, prompt, "--greedy", "--max-tokens", 12, "--ignore-eos", "--json",
                             "--top-logprobs", 32, *more)
        return {"prompt": [families.VOCABULARY.index(character) for character in prompt], **json.loads(line)}

    def compare(self, name, said, scored):
        self.assertEqual(scored["misfits"], [], name)
        start, worst = len(said["prompt"]) - 1, 0.0
        for position, alternatives in enumerate(said["top_logprobs"]):
            for token, logprob in alternatives:
                worst = max(worst, abs(logprob - scored["logprobs"][start + position][token]))
        self.assertLess(worst, TOLERANCE, name)
        return worst

    def sequence(self, said):
        return said["prompt"] + said["token_ids"][:-1]

    def test_what_rollcall_trained(self):
        for name, (targets, _) in CASES.items():
            folder, model = self.folder / f"run_{name}", self.made / name
            folder.mkdir()
            (folder / "train.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in families.PROMPTS))
            (folder / "run.yaml").write_text(families.RUN.format(
                folder=folder, model=model, first=families.CHARACTERS[0],
                last=families.CHARACTERS[len(families.CHARACTERS) // 2]))
            sets = ["model.lora.r=3", "model.lora.alpha=12", "model.lora.rslora=true", "learner.optimizer.lr=0.05",
                    "model.lora.merge_on_export=true", f"model.lora.target_modules={json.dumps(targets)}"]
            self.rollcall("train", folder / "run.yaml", "--quiet", *(x for s in sets for x in ("--set", s)))
            adapter, merged = folder / "run/final", folder / "run/final_merged"
            adapted, whole = self.generate(model, "--adapter", adapter), self.generate(merged)
            plain = self.generate(model)
            self.assertNotEqual(plain["top_logprobs"], adapted["top_logprobs"], name)
            ids = self.sequence(adapted)
            by_adapter, by_merged = self.peft(
                {"score": ids, "base": str(model), "adapter": str(adapter)},
                {"score": ids, "base": str(merged), "adapter": None})
            self.assertEqual(adapted["token_ids"], whole["token_ids"], name)
            worst = [self.compare(name, adapted, by_adapter), self.compare(name, adapted, by_merged),
                     self.compare(name, whole, by_merged)]
            print(f"{name}: trained here, read by peft: within {max(worst):.1e} nats", flush=True)

    def test_what_peft_saved(self):
        for name, (_, targets) in CASES.items():
            model, adapter = self.made / name, self.folder / f"peft_{name}"
            settings = {"r": 5, "lora_alpha": 10, "lora_dropout": 0.1, "target_modules": targets}
            self.peft({"make": str(adapter), "base": str(model), "settings": settings})
            said = self.generate(model, "--adapter", adapter)
            self.assertNotEqual(said["top_logprobs"], self.generate(model)["top_logprobs"], name)
            scored, = self.peft({"score": self.sequence(said), "base": str(model), "adapter": str(adapter)})
            worst = self.compare(name, said, scored)
            print(f"{name}: made by peft, read here: within {worst:.1e} nats", flush=True)

    def test_what_peft_offers_and_rollcall_does_not(self):
        model = self.made / "llama_bias"
        for field, value in (("use_dora", True), ("rank_pattern", {"q_proj": 2}), ("modules_to_save", ["lm_head"]),
                             ("layers_to_transform", [0]), ("bias", "lora_only")):
            adapter = self.folder / f"peft_{field}"
            self.peft({"make": str(adapter), "base": str(model),
                       "settings": {"r": 2, "target_modules": ["q_proj"], field: value}})
            done = subprocess.run([BIN / "rollcall", "generate", model, "x", "--adapter", adapter],
                                  capture_output=True, text=True)
            self.assertNotEqual(done.returncode, 0, field)
            self.assertIn(f"adapter_config.json: {field}", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
