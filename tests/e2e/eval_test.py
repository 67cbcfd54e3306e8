"""`rollcall eval MODEL`: figures, the file of samples, going on with it, faults."""

import json

import harness
import tiny_model

VERIFIER = ["--verifier", "exact_match,after==", "--verifier", "length,max_tokens=4,weight=0"]


class EvalTest(harness.EndToEndTest):
    def setUp(self):
        super().setUp()
        self.model = str(self.folder / "init")
        self.data = str(self.folder / "held_out.jsonl")
        self.out = self.folder / "samples.jsonl"

    def evaluate(self, *arguments, code=0):
        return self.rollcall("eval", self.model, "--data", self.data, "--set", "sampling.max_tokens=4", "--set",
                             "generator.kv_cache_bytes=16777216", *arguments, code=code)

    def samples(self):
        return [json.loads(line) for line in self.out.read_text().splitlines()]

    def test_figures_are_those_of_the_samples(self):
        # Passes for a completion that starts with a digit; the answer that votes is the whole text.
        stdout, _ = self.evaluate("--set", 'reward.verifiers=[{name: digit, regex: {pattern: "^[0-9]"}}]', "-k", "4",
                                  "--out", str(self.out), "--json")
        figures = json.loads(stdout)
        samples = self.samples()
        self.assertEqual(len(samples), 6 * 4)
        by_prompt = [[s for s in samples if s["prompt"] == p] for p in range(6)]
        self.assertTrue(all([s["sample"] for s in group] == [0, 1, 2, 3] for group in by_prompt))
        for sample in samples:
            self.assertEqual(sample["reward"], 1.0 if sample["text"][:1].isdigit() else 0.0, sample)
            self.assertEqual(sample["answer"], sample["text"].strip(" "))
        passed = [sum(s["reward"] for s in group) for group in by_prompt]
        self.assertTrue(0 < sum(passed) < 24, "nothing to tell apart")
        self.assertAlmostEqual(figures["pass@1"], sum(passed) / 24)
        self.assertAlmostEqual(figures["reward/mean"], sum(passed) / 24)
        mean, rates = sum(passed) / 24, [c / 4 for c in passed]
        error = (sum((rate - mean) ** 2 for rate in rates) / 5 / 6) ** 0.5
        self.assertAlmostEqual(figures["pass@1/standard_error"], error)
        self.assertAlmostEqual(figures["pass@4"], sum(c > 0 for c in passed) / 6)
        none_of_two = [(4 - c) * (3 - c) / 12 for c in passed]
        self.assertAlmostEqual(figures["pass@2"], 1 - sum(none_of_two) / 6)
        self.assertGreater(figures["reward/standard_error"], 0)
        self.assertTrue(0 <= figures["maj@4"] <= 1)
        self.assertEqual((figures["prompts"], figures["samples"], figures["prompts/failed"]), (6, 24, 0))

    def test_a_reward_model_judges(self):
        model = tiny_model.write_reward_model(self.folder / "reward_model")
        judge = ["--verifier", f"reward_model,path={model},threads=1", "--out", str(self.out), "--json"]
        first, _ = self.evaluate(*judge)
        rewards = [sample["reward"] for sample in self.samples()]
        self.assertEqual(len(set(rewards)), 6, rewards)
        again, _ = self.evaluate(*judge)
        self.assertEqual(json.loads(again)["prompts/resumed"], 6)
        self.assertEqual(json.loads(again)["reward/mean"], json.loads(first)["reward/mean"])

    def test_goes_on_with_what_is_in_the_file(self):
        whole, _ = self.evaluate(*VERIFIER, "-k", "2", "--out", str(self.out), "--json")
        expected = sorted(self.out.read_text().splitlines())
        self.assertEqual(len(expected), 12)
        # As an interrupted evaluation leaves it: fewer prompts, one of them half written.
        lines = self.out.read_text().splitlines(keepends=True)
        self.out.write_text("".join(lines[:5]) + lines[5][:20])
        rest, _ = self.evaluate(*VERIFIER, "-k", "2", "--out", str(self.out), "--json")
        self.assertEqual(sorted(self.out.read_text().splitlines()), expected)
        rest, whole = json.loads(rest), json.loads(whole)
        self.assertEqual((rest.pop("prompts/resumed"), whole.pop("prompts/resumed")), (2, 0))
        self.assertEqual(rest, whole)
        again, _ = self.evaluate(*VERIFIER, "-k", "2", "--out", str(self.out), "--json")
        self.assertEqual(json.loads(again)["prompts/resumed"], 6)
        # Another question is not answered from the file.
        for other in (["-k", "3"], ["-k", "2", "--set", "seed=1"]):
            _, stderr = self.evaluate(*VERIFIER, *other, "--out", str(self.out), code=1)
            self.assertIn("belongs to another evaluation", stderr)

    def test_a_verifier_that_fails_is_no_zero(self):
        row = {"prompt": "1+1=", "answer": {"no": "text"}}
        (self.folder / "held_out.jsonl").write_text(json.dumps(row) + '\n{"prompt": "2+2=", "answer": "4"}\n')
        stdout, stderr = self.evaluate(*VERIFIER, "--out", str(self.out), "--json", code=1)
        self.assertEqual(json.loads(stdout)["prompts/failed"], 1)
        self.assertIn("a verifier failed", stderr)
        self.assertEqual([s["prompt"] for s in self.samples()], [1])

    def test_wrong_calls_say_why(self):
        _, stderr = self.evaluate(code=2)
        self.assertIn("reward.verifiers", stderr)
        _, stderr = self.evaluate("--verifier", "exact_matches", code=2)
        self.assertIn("exact_match", stderr)
        _, stderr = self.evaluate(*VERIFIER, "--model", self.model, code=2)
        self.assertIn("--model is for a run's configuration", stderr)
        _, stderr = self.rollcall("eval", str(self.config), "--data", self.data, code=2)
        self.assertIn("are for a model folder", stderr)
        _, stderr = self.rollcall("eval", self.model, "--data", "/no/such.jsonl", *VERIFIER, code=2)
        self.assertIn("/no/such.jsonl", stderr)


if __name__ == "__main__":
    harness.main()
