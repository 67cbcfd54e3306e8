"""Constitutional AI end to end: from a rude policy to a kind one by a critic and a judge; killed at any moment, the same
bytes."""

import hashlib
import json
import os
import pathlib
import signal
import sys

import harness

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "bench" / "rlaif"))
import manners  # noqa: E402
import rlaif  # noqa: E402

# Enough for critique, revision and judgement to be mostly right.
STEPS = {"policy": 60, "feedback": 250}
FILES = ["1-answers/answers.jsonl", "1-answers/prompts.jsonl", "2-revisions/sft.jsonl", "4-samples/answers.jsonl",
         "5-preferences/judgements.jsonl", "5-preferences/pairs.jsonl", "chain.json"]
# Between steps 1 and 6, in the middle of one that samples and of one that trains.
KILLS = ["2-revisions", "3-sft", "5-preferences"]


class RlaifTest(harness.EndToEndTest):
    def setUp(self):
        super().setUp()
        os.environ["ROLLCALL_BIN_DIR"] = str(harness.BIN)
        self.task = self.folder / "task"
        manners.write_task(self.task, seed=0, rows=4000, prompts=96, held_out=64)
        # Both kinds of feedback come from one model.
        self.config = self.folder / "chain.yaml"
        feedback = self.task / "feedback" / "final"
        self.config.write_text(rlaif.chain_yaml(self.task, 0, self.task / "policy" / "final", feedback, feedback))
        self.small = ["evaluation.samples_per_prompt=2", "rlaif.answers_per_prompt=3", "rlaif.dpo.steps=20",
                      "rlaif.reward_model.steps=40", "rlaif.ppo.steps=10"]

    def chain(self, *sets):
        return [str(self.config), *(x for s in (*self.small, *sets) for x in ("--set", s))]

    def digests(self, name):
        root = self.task / name
        return {file: hashlib.sha256((root / file).read_bytes()).hexdigest()
                for file in [*FILES, "final/model.safetensors", "evaluation/dpo.jsonl"]}

    def summaries(self, name):
        return {step["name"]: step["summary"] for step in json.loads((self.task / name / "chain.json").read_text())["steps"]}

    def items(self, folder):
        path = self.task / "parts" / folder / "items.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def started(self, step):
        """The step is under way: it has made some of its items, or its learner some of its steps."""
        if step != "3-sft":
            return self.items(step) > 12
        path = self.task / "parts" / step / "metrics.jsonl"
        return path.exists() and path.read_bytes().count(b"\n") > 2

    def test_the_policy_comes_to_follow_the_principle_and_a_kill_changes_nothing(self):
        for name, steps in STEPS.items():
            rlaif.train_model(self.task, name, 0, steps)
        out, _ = self.rollcall("train", *self.chain("name=whole"), timeout=240)
        self.assertIn("held-out reward: policy", out)
        done = self.summaries("whole")
        agreement = [done[f"evaluation_{name}"]["reward"] for name in ("policy", "sft", "dpo")]
        self.assertLess(agreement[0], agreement[1] - 0.05, done)
        self.assertLess(agreement[1], agreement[2] - 0.05, done)
        preferences = done["preferences"]
        self.assertEqual(preferences["pairs"], 96 * 2)
        self.assertEqual(preferences["kept"] + sum(preferences["left_out"].values()), preferences["pairs"])
        self.check_provenance(self.task / "whole")

        for step in KILLS:
            # One sample at a time, so that there is a middle.
            process = self.start("train", *self.chain("name=parts", "generator.max_running_samples=1"))
            if step == "2-revisions":
                self.lose_a_generator(process, step)
            harness.await_condition(lambda: self.started(step) or process.poll() is not None, f"{step} never started")
            children = harness.children_of(process.pid)
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
            harness.await_condition(lambda: not any(map(harness.alive, children)), "a child outlived the kill")
            self.assertEqual(process.returncode, -signal.SIGKILL, f"{step} was over before it could be killed")
            before = self.items(step)
        self.assertGreater(before, 0)
        out, _ = self.rollcall("train", *self.chain("name=parts"), timeout=240)
        self.assertIn("4-samples      done before", out)
        self.assertEqual(self.digests("parts"), self.digests("whole"))

        # What is done is not done again, and not with other settings either.
        out, _ = self.rollcall("train", *self.chain("name=whole"))
        self.assertEqual(out.count("done before"), 6, out)
        _, errors = self.rollcall("train", *self.chain("name=whole", "rlaif.revisions=2"), code=1)
        self.assertIn("2-revisions: made with another rlaif.revisions: 1, now 2", errors)

        # The same preferences, by way of a reward model.
        out, _ = self.rollcall("train", *self.chain("name=whole", "rlaif.train=reward_model"), timeout=240)
        self.assertEqual(out.count("done before"), 5, out)
        done = self.summaries("whole")
        self.assertLess(agreement[1], done["evaluation_ppo"]["reward"] - 0.05, done)
        self.assertEqual((self.task / "whole" / "final").readlink(), pathlib.Path("7-ppo/final"))

    def lose_a_generator(self, process, step):
        """A service that dies costs nothing but time."""
        harness.await_condition(lambda: self.items(step) > 4, f"{step} never started")
        os.kill(self.child(process, "critic-0"), signal.SIGKILL)
        lost = self.items(step)
        harness.await_condition(lambda: self.items(step) > lost, "the critic never came back")

    def check_provenance(self, root):
        answers = [json.loads(line) for line in (root / "1-answers" / "answers.jsonl").read_text().splitlines()]
        rows = [json.loads(line) for line in (root / "2-revisions" / "sft.jsonl").read_text().splitlines()]
        self.assertGreater(len(rows), 48)
        for row in rows:
            self.assertIn(row["principle"], ("kind_ending", "no_scorn"))
            self.assertEqual(row["original_answer"], answers[row["prompt_id"]]["answers"][0]["text"])
            self.assertEqual(row["prompt"], answers[row["prompt_id"]]["prompt"])
        kinder = sum(row["completion"].endswith(manners.KIND) for row in rows)
        self.assertGreater(kinder / len(rows), 0.8)
        pairs = [json.loads(line) for line in (root / "5-preferences" / "pairs.jsonl").read_text().splitlines()]
        differing = [pair for pair in pairs if pair["chosen"].endswith(manners.KIND) != pair["rejected"].endswith(manners.KIND)]
        right = sum(pair["chosen"].endswith(manners.KIND) for pair in differing)
        self.assertGreater(right / len(differing), 0.8)
        self.assertTrue(all(0.5 < pair["preference"] <= 1 for pair in pairs))

    def test_a_bad_constitution_is_refused_before_anything_is_started(self):
        path = self.task / "constitution.yaml"
        path.write_text(path.read_text().replace("{answer_b}", "{answer_c}", 1))
        _, errors = self.rollcall("train", *self.chain(), code=2)
        self.assertIn("constitution.yaml:10: principles[0].judgement: unknown placeholder {answer_c}", errors)
        _, errors = self.rollcall("train", *self.chain("rlaif.constitution="), code=2)
        self.assertIn("rlaif.constitution: is needed with stage rlaif", errors)
        _, errors = self.rollcall("train", *self.chain("rlaif.constitution=missing.yaml"), code=2)
        self.assertIn("missing.yaml", errors)


if __name__ == "__main__":
    harness.main()
