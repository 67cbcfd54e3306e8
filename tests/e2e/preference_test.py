"""Stages of recorded preferences, end to end: the reference beside the learner, its cache, resuming, refusals."""

import json

import harness

RUN = """
name: {stage}
output_dir: {{folder}}
seed: 5
stage: {stage}
model: {{{{path: {{folder}}/init}}}}
data:
  train: [{{{{path: {{folder}}/{data}.jsonl}}}}]
  evaluation: [{{{{path: {{folder}}/held_out_{data}.jsonl}}}}]
reference: {{{{threads: 1}}}}
learner:
  steps: 10
  prompts_per_step: 8
  threads: 1
  optimizer: {{{{lr: 3e-3}}}}
  checkpoint: {{{{every_steps: 2}}}}
evaluation: {{{{at_start: true}}}}
"""


class PreferenceTest(harness.EndToEndTest):
    def setUp(self):
        super().setUp()
        for name, numbers in (("", range(0, 48)), ("held_out_", range(48, 72))):
            pairs = [{"prompt": f"{i}+{i}=", "chosen": str(2 * i), "rejected": "," * (1 + i % 3)} for i in numbers]
            labelled = [{"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
                        for pair in pairs for side in ("chosen", "rejected")]
            for kind, rows in (("pairs", pairs), ("labelled", labelled)):
                (self.folder / f"{name}{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def use(self, stage):
        self.write_config(RUN.format(stage=stage, data="labelled" if stage == "kto" else "pairs"))

    def evaluations(self, name):
        return [row for row in self.metrics(name) if "eval/margin" in row]

    def steps(self, name):
        return [row for row in self.metrics(name) if row["step"] > 0]

    def log_of(self, name, service):
        return (self.folder / name / "logs" / f"{service}.log").read_text()

    def test_each_stage_raises_margin_and_accuracy_on_held_out_rows_and_resumes(self):
        for stage in ("dpo", "simpo", "orpo", "kto"):
            with self.subTest(stage):
                self.use(stage)
                self.train(stage)
                before, after = self.evaluations(stage)
                self.assertGreater(after["eval/margin"], before["eval/margin"])
                self.assertGreater(after["eval/accuracy"], 0.9)
                self.assertLess(after["eval/loss"], before["eval/loss"])
                if stage in ("dpo", "kto"):  # the policy is its reference, bit for bit
                    self.assertEqual(before["eval/margin"], 0)
                    self.assertEqual(before["eval/accuracy"], 0.5)
                    self.assertTrue((self.folder / stage / "logs" / "reference.log").exists())
                else:
                    self.assertFalse((self.folder / stage / "logs" / "reference.log").exists())
                self.assertTrue((self.folder / stage / "final" / "config.json").exists())
        # Stopped after four steps and gone on with: the same bits.
        self.train("parts", "learner.steps=4")
        self.train("parts")
        self.assertEqual(self.model_hash("parts"), self.model_hash("kto"))

    def test_a_later_run_reads_the_references_log_probs_from_the_cache(self):
        self.use("dpo")
        cache = f"preference.reference_cache={self.folder}/cache"
        self.train("first", cache)
        self.train("second", cache)
        # 48 pairs are six batches; then the second epoch begins.
        self.assertEqual([row["reference/cached"] for row in self.steps("first")], [0] * 6 + [16] * 4)
        self.assertEqual([row["reference/scored"] for row in self.steps("second")], [0] * 10)
        self.assertEqual(self.model_hash("second"), self.model_hash("first"))

        # A damaged entry: found by its checksum, said, computed again.
        (file,) = (self.folder / "cache").iterdir()
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        self.train("third", cache)
        self.assertIn("the cache of reference log-probs is damaged", self.log_of("third", "learner"))
        self.assertGreater(sum(row["reference/scored"] for row in self.steps("third")), 0)
        self.assertGreater(sum(row["reference/cached"] for row in self.steps("third")), 0)
        self.assertEqual(self.model_hash("third"), self.model_hash("first"))

    def test_a_reference_that_is_the_policy_is_refused(self):
        self.use("dpo")
        _, error = self.train("own", f"reference.model_path={self.folder}/own/final", code=2)
        self.assertIn("reference.model_path: lies in the folder that this run writes", error)
        # At the same place as what the run goes on from, and the same weights: only the service can tell.
        self.train("follows", "learner.steps=2")
        model = self.folder / "follows" / "checkpoints" / "step-00000002" / "model"
        moved = self.folder / "elsewhere"
        moved.symlink_to(model)
        _, error = self.train("follows", f"reference.model_path={moved}", code=1)
        self.assertIn("it follows the policy", error)

    def test_rows_that_prefer_nothing_name_their_place(self):
        self.use("dpo")
        with (self.folder / "pairs.jsonl").open("a") as file:
            file.write(json.dumps({"prompt": "1", "chosen": "2", "rejected": "2"}) + "\n")
        _, error = self.train("equal", code=1)
        self.assertIn("pairs.jsonl:49: column", error)
        self.train("skipped", "data.on_bad_row=skip", "learner.steps=1", "data.evaluation=[]",
                   "evaluation.at_start=false")
        self.use("kto")
        rows = (self.folder / "labelled.jsonl").read_text().splitlines()
        (self.folder / "labelled.jsonl").write_text("\n".join(row for row in rows if "true" in row) + "\n")
        _, error = self.train("one_class", code=1)
        self.assertIn("all 48 completions are desirable", error)


if __name__ == "__main__":
    harness.main()
