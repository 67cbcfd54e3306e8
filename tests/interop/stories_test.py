"""A model that Rollcall trained and saved opens in transformers: same tokens, same log-probs as our reference service.

One command: ./rollcall test -L slow -R interop
"""

import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import unittest

import grpc

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import environment  # noqa: E402
import tiny_model  # noqa: E402
from harness import BIN, DEADLINE_S, contract, start_service  # noqa: E402

logprob, logprob_grpc = contract("logprob")
HERE = pathlib.Path(__file__).resolve().parent
STORIES = pathlib.Path(os.environ["ROLLCALL_TEST_DATA"]) / "stories260k"
# Nats. Both compute in float32, in another order.
TOLERANCE = 1e-4

RUN = """
name: run
output_dir: {folder}
seed: 4
model: {{path: {folder}/model}}
data: {{train: [{{path: {folder}/train.jsonl}}], shuffle: false}}
sampling: {{max_tokens: {max_tokens}}}
algorithm: {{samples_per_prompt: 2, kl_coefficient: 0}}
reward: {{verifiers: [{{name: letter, regex: {{pattern: "[a1]"}}}}, {{name: other, regex: {{pattern: "[h2]"}}}}]}}
generator: {{threads: 1, kv_cache_bytes: 67108864}}
learner: {{steps: 2, prompts_per_step: {prompts}, threads: 1, optimizer: {{lr: 1e-3}}}}
"""


class InteropTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="rollcall_interop_")))

    def train(self, prompts, max_tokens):
        """Two steps on all prompts of the model in `folder`/model; the groups on record."""
        assert len(prompts) % 2 == 0
        (self.folder / "train.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts))
        config = self.folder / "run.yaml"
        config.write_text(RUN.format(folder=self.folder, max_tokens=max_tokens, prompts=len(prompts) // 2))
        for command in (["train", config, "--quiet"], ["rollouts", self.folder / "run", "--jsonl"]):
            done = subprocess.run([BIN / "rollcall", *command], capture_output=True, text=True)
            logs = [path.read_text()[-2000:] for path in (self.folder / "run/logs").glob("*.log")]
            self.assertEqual(done.returncode, 0, "\n".join([done.stdout, done.stderr, *logs]))
        return [json.loads(line) for line in done.stdout.splitlines()]

    def scores(self, folder, sequences):
        """What the reference service says of a model folder."""
        process, address, _ = start_service("reference", f"model: {{path: {folder}}}\nreference: {{threads: 1}}\n",
                                            self.folder)
        with process, grpc.insecure_channel(address) as channel:
            response = logprob_grpc.LogProbStub(channel).Score(logprob.LogProbRequest(
                sequences=[logprob.TokenSequence(token_ids=ids) for ids in sequences]), timeout=DEADLINE_S)
        return [list(sequence.logprobs) for sequence in response.sequences]

    def transformers(self, folders, texts, sequences, completions):
        python, variables = environment.prepare()
        done = subprocess.run(
            [python, HERE / "transformers_side.py"], capture_output=True, text=True, env=variables,
            input=json.dumps({"folders": list(map(str, folders)), "texts": texts, "sequences": sequences,
                              "completions": completions}))
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def check(self, prompts, max_tokens, vocabulary, context):
        groups = self.train(prompts, max_tokens)
        self.assertEqual({group["prompt"]["text"] for group in groups}, set(prompts))
        trajectories = [trajectory for group in groups for trajectory in group["trajectories"]]
        parts = [[segment["token_ids"] for segment in trajectory["segments"]] for trajectory in trajectories]
        sequences = [prompt + completion for prompt, completion in parts]
        # And some that no model would write, of every length.
        draw = random.Random(5)
        sequences += [[draw.randrange(vocabulary) for _ in range(length)] for length in (2, 3, 17, context - 1, context)]
        final = self.folder / "run" / "final"
        before, after = self.transformers([self.folder / "model", final], prompts, sequences,
                                          [completion for _, completion in parts])

        self.assertEqual(after["misfits"], [])
        ours = {group["prompt"]["text"]: group["prompt"]["token_ids"] for group in groups}
        self.assertEqual(after["token_ids"], [ours[text] for text in prompts])
        self.assertEqual(after["decoded"], [trajectory["text"] for trajectory in trajectories])
        gap = moved = 0
        for index, logprobs in enumerate(self.scores(final, sequences)):
            self.assertEqual(len(logprobs), len(after["logprobs"][index]))
            gap = max(gap, *(abs(a - b) for a, b in zip(logprobs, after["logprobs"][index])))
            moved = max(moved, *(abs(a - b) for a, b in zip(logprobs, before["logprobs"][index])))
        tokens = sum(map(len, sequences))
        print(f"{tokens} tokens: largest difference to transformers {gap:.2e} nats, training moved {moved:.2e}")
        self.assertLess(gap, TOLERANCE)
        # It was the trained model that both scored.
        self.assertGreater(moved, 100 * TOLERANCE)
        return after

    def test_stories260k(self):
        if not STORIES.exists():
            self.skipTest(f"no {STORIES}")
        shutil.copytree(STORIES, self.folder / "model")
        prompts = ["Once upon a time, there was a cat named Lily.", "The end", " two  spaces and a\ttab", "line\nbreaks\n\n",
                   "Ünïcödé — “quotes” 猫 🐈", "1234567890 + 0.5%", "<s> is text, </s> too?", "x"]
        seen = self.check(prompts, max_tokens=48, vocabulary=512, context=512)
        # The tokenizer that transformers builds for the architecture agrees on plain text.
        self.assertEqual(seen["token_ids_by_architecture"][:2], seen["token_ids"][:2])
        for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            self.assertEqual((self.folder / "run/final" / name).read_bytes(), (STORIES / name).read_bytes())

    def test_a_tiny_random_model(self):
        tiny_model.write(self.folder / "model")
        self.check(["1+2=", "34", "5+6,7=", "8 9 0"], max_tokens=16, vocabulary=len(tiny_model.VOCABULARY),
                   context=tiny_model.CONTEXT)


if __name__ == "__main__":
    unittest.main(verbosity=2)
