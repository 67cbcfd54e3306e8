"""What a run has sampled becomes training data, and the stages read it: `rollcall harvest`."""

import json

import harness

STAGE = """
name: {name}
output_dir: {folder}
seed: 3
stage: {stage}
model: {{path: {folder}/init}}
data:
  train: [{{path: {folder}/{file}}}]
{columns}
reference: {{threads: 1}}
learner:
  steps: 2
  prompts_per_step: 4
  threads: 2
  optimizer: {{lr: 1e-3}}
"""


class HarvestTest(harness.EndToEndTest):
    def harvest(self, out, *flags, code=0):
        return self.rollcall("harvest", str(self.folder / "run"), str(self.folder / out), *flags, code=code)

    def rows(self, name):
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def learn(self, stage, file, columns=""):
        """Trains a stage on a file; the metrics of its steps."""
        name = file.split(".")[0] + "_" + stage
        config = self.folder / f"{name}.yaml"
        config.write_text(STAGE.format(name=name, stage=stage, file=file, folder=self.folder, columns=columns))
        self.rollcall("train", str(config))
        steps = [row for row in self.metrics(name) if "loss" in row]
        self.assertEqual(len(steps), 2)
        return steps

    def test_a_runs_samples_teach_the_offline_stages(self):
        self.train("run")
        groups = [json.loads(line) for line in
                  self.rollcall("rollouts", str(self.folder / "run"), "--jsonl")[0].splitlines()]
        rewards = {int(group.get("group_id", 0)): sorted(t["reward"]["value"] for t in group["trajectories"])
                   for group in groups}

        # The tiny model knows of no end: nearly all its samples are cut off.
        out, _ = self.harvest("pairs.jsonl", "--as", "pairs", "--keep-truncated", "--pairs-per-group", "2")
        pairs = self.rows("pairs.jsonl")
        self.assertIn(f"pairs.jsonl: {len(pairs)} rows from ", out)
        self.assertIn("of 12 groups", out)
        self.assertGreater(len(pairs), 0)
        self.assertEqual([pair["group"] for pair in pairs], sorted(pair["group"] for pair in pairs))
        best = {}
        for pair in pairs:
            best.setdefault(pair["group"], pair)
            self.assertGreater(pair["margin"], 0)
            self.assertAlmostEqual(pair["margin"], pair["chosen_reward"] - pair["rejected_reward"])
        for group, pair in best.items():
            self.assertEqual(pair["chosen_reward"], rewards[group][-1])
        self.learn("reward_model", "pairs.jsonl", "  margin_column: margin")
        # The same rows as Parquet teach the same.
        self.harvest("pairs.parquet", "--as", "pairs", "--keep-truncated", "--pairs-per-group", "2")
        text = self.learn("reward_model", "pairs.jsonl")
        self.assertEqual([row["loss"] for row in self.learn("reward_model", "pairs.parquet")],
                         [row["loss"] for row in text])

        self.harvest("best.jsonl", "--as", "sft", "--keep-truncated")
        for row in self.rows("best.jsonl"):
            self.assertEqual(row["reward"], rewards[row["group"]][-1])
        self.learn("sft", "best.jsonl")

        self.harvest("labels.jsonl", "--as", "kto", "--keep-truncated", "--threshold", "0.5")
        for row in self.rows("labels.jsonl"):
            self.assertEqual(row["label"], row["reward"] >= 0.5)
        self.harvest("labels.jsonl", "--as", "kto", "--keep-truncated", "--overwrite")
        self.learn("kto", "labels.jsonl")

        # What would be lost, or mean nothing, is refused.
        _, stderr = self.harvest("pairs.jsonl", "--as", "pairs", code=2)
        self.assertIn("there already; name another file, or --overwrite", stderr)
        _, stderr = self.harvest("x.jsonl", "--as", "sft", "--min-margin", "1", code=2)
        self.assertIn("--min-margin: goes with --as pairs only", stderr)
        _, stderr = self.rollcall("harvest", str(self.folder), str(self.folder / "x.jsonl"), "--as", "sft", code=2)
        self.assertIn("is this a run folder?", stderr)
        _, stderr = self.harvest("x.jsonl", "--as", "sft", "--min-reward", "99", code=2)
        self.assertIn("nothing to harvest", stderr)
        self.assertFalse((self.folder / "x.jsonl").exists())


if __name__ == "__main__":
    harness.main()
