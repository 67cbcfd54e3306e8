"""The learning bench, cut short: it trains, reports, keeps what is finished and goes on with what is not."""

import json
import pathlib
import subprocess
import sys

import harness

BENCH = pathlib.Path(__file__).resolve().parents[1] / "bench" / "learning" / "learning.py"
SHORT = ["--seeds", "0", "--sft-steps", "20", "--prompts", "4", "--held-out", "8", "--recorded-prompts", "16"]


class LearningTest(harness.EndToEndTest):
    def bench(self, *arguments, code=0):
        done = subprocess.run([sys.executable, "-B", BENCH, "--dir", self.folder / "bench", *SHORT, *arguments],
                              capture_output=True, text=True, timeout=harness.DEADLINE_S)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout

    def report(self):
        return json.loads((self.folder / "bench" / "learning.json").read_text())

    def test_two_methods_and_going_on(self):
        steps = ["--steps", "2", "--least-gain", "-1"]
        table = self.bench("--methods", "grpo", "reinforce_pp", *steps)
        self.assertEqual(len(table.splitlines()), 4, table)
        self.assertIn("| `grpo` | 1 | 2 |", table)
        report = self.report()
        self.assertEqual([row["method"] for row in report["runs"]], ["grpo", "reinforce_pp"])
        for row in report["runs"]:
            self.assertEqual(len(row["curve"]), 2, row)
            self.assertEqual(row["max_logprob_gap"], 0)
            self.assertTrue(0 < row["seconds"] < harness.DEADLINE_S, row)
        self.assertEqual(len({row["accuracy_start"] for row in report["runs"]}), 1, "not the same start")
        self.assertEqual((self.folder / "bench" / "learning.png").read_bytes()[:8], b"\x89PNG\r\n\x1a\n")

        # A finished run is not run again, one that was interrupted goes on.
        runs = self.folder / "bench" / "seed0"
        logs = {name: (runs / name / "logs" / "learner.log").stat().st_mtime_ns for name in ("grpo", "reinforce_pp")}
        (runs / "reinforce_pp.result.json").unlink()
        self.bench("--methods", "grpo", "reinforce_pp", *steps)
        again = self.report()
        self.assertEqual(again["runs"][0], report["runs"][0])
        self.assertEqual(again["runs"][1]["accuracy_end"], report["runs"][1]["accuracy_end"])
        self.assertEqual((runs / "grpo" / "logs" / "learner.log").stat().st_mtime_ns, logs["grpo"])

        # Other settings are another run.
        self.bench("--methods", "grpo", "--steps", "1", "--least-gain", "-1")
        self.assertEqual(self.report()["runs"][0]["steps"], 1)
        # What does not learn is said, and so is what takes too long.
        self.bench("--methods", "grpo", "--steps", "1", "--least-gain", "0.99", code=1)
        self.bench("--methods", "grpo", "--steps", "1", "--least-gain", "-1", "--budget", "0.001", code=1)
        self.assertIn("`grpo`", self.bench("--methods", "grpo", "--steps", "1", "--least-gain", "-1", "--report"))


if __name__ == "__main__":
    harness.main()
