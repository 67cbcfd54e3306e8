"""Every family both ways: what transformers saves, Rollcall reads as transformers does; what Rollcall trained and saved,
transformers loads without a misfit and computes the same.

make_models.py makes the models and says what transformers computes; `rollcall verify` compares logits, log-probs, entropy,
values, gradients and optimizer steps with it, before and after Rollcall's own training.

One command: ./rollcall test -L slow -R interop
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import environment  # noqa: E402
import model_cases as cases  # noqa: E402
import tiny_model  # noqa: E402

BIN = pathlib.Path(os.environ["ROLLCALL_BIN_DIR"])
HERE = pathlib.Path(__file__).resolve().parent

CHARACTERS = [chr(0x4e00 + index) for index in range(cases.BASE["vocab_size"] - 3)]
VOCABULARY = ["<pad>", "<bos>", "<eos>", *CHARACTERS]
PROMPTS = ["".join(CHARACTERS[start:start + length]) for start, length in ((0, 3), (20, 6), (70, 1), (99, 8))]

# Half of the characters are worth something, so that samples of one prompt differ in reward.
RUN = """
name: run
output_dir: {folder}
seed: 4
model: {{path: {model}}}
data: {{train: [{{path: {folder}/train.jsonl}}], shuffle: false}}
sampling: {{max_tokens: 12}}
algorithm: {{samples_per_prompt: 4, kl_coefficient: 0}}
reward: {{verifiers: [{{name: half, regex: {{pattern: "^[{first}-{last}]"}}}}]}}
generator: {{threads: 1, kv_cache_bytes: 16777216}}
learner: {{steps: 2, prompts_per_step: 2, threads: 1, optimizer: {{lr: 1e-3}}}}
"""


def tokenizer():
    return tiny_model.tokenizer(VOCABULARY, special_tokens=3)


class FamiliesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory(prefix="rollcall_families_")
        cls.addClassCleanup(scratch.cleanup)
        cls.folder = pathlib.Path(scratch.name)
        cls.python, cls.variables = environment.prepare()
        cls.made, cls.trained = cls.folder / "made/models", cls.folder / "trained/models"
        cls.transformers(cls.made)

    @classmethod
    def transformers(cls, *arguments):
        done = subprocess.run([cls.python, HERE / "make_models.py", *arguments], capture_output=True, text=True,
                              env={**cls.variables, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr[-4000:]

    def rollcall(self, *command):
        done = subprocess.run([BIN / command[0], *command[1:]], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return done.stdout

    def verify(self, folder):
        done = subprocess.run([BIN / "rollcall", "verify", folder.parent, "--suite", "models", "--json"],
                              capture_output=True, text=True)
        findings = json.loads(done.stdout)["findings"]
        wrong = [finding for finding in findings if finding["outcome"] != "pass"]
        self.assertEqual(wrong, [])
        self.assertEqual({finding["case"] for finding in findings}, set(cases.CASES))
        print(f"{folder.parent.name}: {len(findings)} comparisons of {len(cases.CASES)} models", flush=True)

    def weights(self, folder):
        return (folder / "model.safetensors").read_bytes()

    def train_by_a_run(self, name):
        """Two GRPO steps through all services; the folder that the run leaves."""
        folder, model = self.folder / f"run_{name}", self.made / name
        folder.mkdir()
        (model / "tokenizer.json").write_text(json.dumps(tokenizer()))
        (folder / "train.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
        config = folder / "run.yaml"
        config.write_text(RUN.format(folder=folder, model=model, first=CHARACTERS[0],
                                     last=CHARACTERS[len(CHARACTERS) // 2]))
        self.rollcall("rollcall", "train", config, "--quiet")
        return folder / "run/final"

    def test_what_transformers_saved(self):
        self.verify(self.made)

    def test_what_rollcall_trained_and_saved(self):
        self.trained.mkdir(parents=True)
        for name, (_, _, head) in cases.CASES.items():
            if head == "causal_lm":
                (self.trained / name).symlink_to(self.train_by_a_run(name))
            else:
                self.rollcall("train_value_model", self.made / name, self.trained / name)
            self.assertNotEqual(self.weights(self.trained / name), self.weights(self.made / name), name)
        self.transformers("--existing", self.trained, *cases.CASES)
        self.verify(self.trained)


if __name__ == "__main__":
    unittest.main(verbosity=2)
