"""`rollcall explain-config`: what it says of a run that could start, and exit codes."""

import json

import harness


class ExplainTest(harness.EndToEndTest):
    def explain(self, *arguments, code=0):
        return self.rollcall("explain-config", str(self.config), *arguments, code=code)

    def test_text_and_json_say_what_the_run_will_do(self):
        text, _ = self.explain("--set", "algorithm.mini_batches=2", "--set", "sampling.top_p=0.9")
        for part in ("stage rl, preset grpo", "+ 0.05·KL", "4 prompts × 4 samples = 16 sequences",
                     "2 mini-batches × 1 epoch = 2 steps", "40 rows", "r = shape + 0.5·short", "reference",
                     "[uncorrected_sampling]"):
            self.assertIn(part, text)
        figures = json.loads(self.explain("--json")[0])
        self.assertEqual(figures["batch"]["sequences"], 16)
        self.assertEqual([model["name"] for model in figures["models"]],
                         ["learner: policy", "generator", "reference"])
        weights = (self.folder / "init" / "model.safetensors").stat().st_size
        said = figures["models"][0]["items"][0]["bytes"]
        self.assertTrue(0 <= weights - said < 8192, (weights, said))  # the file has a header, too

    def test_what_cannot_run_is_refused(self):
        _, stderr = self.explain("--set", "algorithm.samples_per_prompt=1", code=2)
        self.assertIn("samples_per_prompt", stderr)
        _, stderr = self.explain("--set", "algorithm.presett=grpo", code=2)
        self.assertIn("did you mean", stderr)


if __name__ == "__main__":
    harness.main()
