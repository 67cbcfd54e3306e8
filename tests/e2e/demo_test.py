"""The demo, cut short: what it prints and leaves behind."""

import json

import harness

SHORT = ["--sft-set", "learner.steps=20", "--rl-set", "learner.steps=2", "--rl-set", "evaluation.max_prompts=16",
         "--set", "learner.prompts_per_step=8"]


class DemoTest(harness.EndToEndTest):
    def test_json_is_one_line_with_every_figure(self):
        stdout, _ = self.rollcall("demo", "--dir", "demo", "--json", *SHORT)
        figures = json.loads(stdout)
        self.assertEqual(set(figures), {"accuracy_sft", "accuracy_rl", "seconds", "steps", "rollouts",
                                        "max_logprob_gap"})
        self.assertEqual(figures["max_logprob_gap"], 0)
        self.assertEqual(figures["steps"], 2)
        self.assertEqual(figures["rollouts"], 2 * 8 * 8)
        self.assertTrue(0 <= figures["accuracy_sft"] <= 1)

    def test_says_what_it_shows_and_where_everything_is(self):
        stdout, _ = self.rollcall("demo", "--dir", "demo", *SHORT)
        for text in ("verified reward", "Held-out accuracy", "Reward of the rollouts", "Held-out samples", "Next:"):
            self.assertIn(text, stdout)
        model = self.folder / "demo" / "grpo" / "final"
        self.assertTrue((model / "model.safetensors").exists())
        self.assertTrue((model / "tokenizer.json").exists())
        # An existing folder is never overwritten.
        _, stderr = self.rollcall("demo", "--dir", "demo", *SHORT, code=2)
        self.assertIn("exists already", stderr)


if __name__ == "__main__":
    harness.main()
