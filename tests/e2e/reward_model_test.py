"""A learned reward, end to end: pairs, a reward model from the policy, the policy trained against it."""

import json

import harness

REWARD_MODEL = """
name: reward_model
output_dir: {folder}
seed: 3
stage: reward_model
model: {{path: {folder}/init}}
data:
  train: [{{path: {folder}/pairs.jsonl}}]
  evaluation: [{{path: {folder}/held_out_pairs.jsonl}}]
learner:
  steps: 30
  prompts_per_step: 8
  threads: 2
  optimizer: {{lr: 3e-3}}
  checkpoint: {{every_steps: 10}}
evaluation: {{at_start: true}}
"""


class RewardModelTest(harness.EndToEndTest):
    def setUp(self):
        super().setUp()
        for name, numbers in (("pairs", range(0, 60)), ("held_out_pairs", range(60, 90))):
            rows = [{"prompt": f"{i}+{i}=", "chosen": str(2 * i), "rejected": "," * (1 + i % 3)} for i in numbers]
            (self.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (self.folder / "reward_model.yaml").write_text(REWARD_MODEL.format(folder=self.folder))

    def train_reward_model(self, *sets):
        overrides = [x for s in sets for x in ("--set", s)]
        return self.rollcall("train", str(self.folder / "reward_model.yaml"), *overrides)

    def test_pairs_become_a_reward_that_a_policy_is_trained_against(self):
        self.train_reward_model()
        rows = self.metrics("reward_model")
        accuracies = [row["eval/accuracy"] for row in rows if "eval/accuracy" in row]
        self.assertEqual(len(accuracies), 2)
        self.assertEqual(accuracies[0], 0.5)  # a head of zeros prefers nothing
        self.assertGreater(accuracies[1], 0.95)
        model = self.folder / "reward_model" / "final"
        config = json.loads((model / "config.json").read_text())
        self.assertEqual(config["architectures"], ["LlamaForSequenceClassification"])
        self.assertEqual(config["id2label"], {"0": "LABEL_0"})

        # Digits score above commas for whoever asks it.
        out = self.folder / "samples.jsonl"
        self.rollcall("eval", str(self.folder / "init"), "--data", str(self.folder / "held_out.jsonl"), "-k", "4",
                      "--set", "sampling.max_tokens=4", "--set", "generator.kv_cache_bytes=16777216", "--verifier",
                      f"reward_model,path={model},threads=1", "--out", str(out))
        samples = [json.loads(line) for line in out.read_text().splitlines()]
        digits = [s["reward"] for s in samples if s["text"].strip() and s["text"].strip(" 0123456789") == ""]
        commas = [s["reward"] for s in samples if "," in s["text"] and not any(c.isdigit() for c in s["text"])]
        if digits and commas:
            self.assertGreater(min(digits), max(commas))

        self.train("judged", "learner.steps=2",
                   f"reward.verifiers=[{{name: quality, reward_model: {{path: {model}, threads: 1}}}}]")
        self.assertEqual(len([row for row in self.metrics("judged") if "reward/mean" in row]), 2)

        # Four models: the critic starts from the reward model, head and all.
        self.train("ppo", "learner.steps=2", "algorithm.preset=ppo", "algorithm.kl_coefficient=0.05",
                   "algorithm.reward_whitening=true", "algorithm.reward_clip=5", f"learner.critic.path={model}",
                   f"reward.verifiers=[{{name: quality, reward_model: {{path: {model}, threads: 1}}}}]")
        rows = [row for row in self.metrics("ppo") if "reward/mean" in row]
        self.assertEqual(len(rows), 2)
        self.assertNotEqual(rows[0]["value_mean"], 0)
        for name in ("reward-model-0", "reference", "generator-0", "learner"):
            self.assertTrue((self.folder / "ppo" / "logs" / f"{name}.log").exists(), name)

    def test_an_interrupted_training_goes_on_exactly(self):
        self.train_reward_model("learner.steps=12")
        whole = self.model_hash("reward_model")
        self.train_reward_model("name=parts", "learner.steps=10", "learner.optimizer.schedule=constant")
        self.train_reward_model("name=parts", "learner.steps=12", "learner.optimizer.schedule=constant")
        self.assertEqual(self.model_hash("parts"), whole)


if __name__ == "__main__":
    harness.main()
