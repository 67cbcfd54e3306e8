"""A run through the real processes: it completes, can be watched, stopped and read afterwards."""

import json
import os
import signal

import harness


class RunTest(harness.EndToEndTest):
    def test_three_steps_complete_and_every_group_is_accounted_for(self):
        stdout, _ = self.train("run")
        self.assertIn("done", stdout)
        rows = [row for row in self.metrics("run") if "reward/mean" in row]
        self.assertEqual([row["step"] for row in rows], [1, 2, 3])
        self.assertTrue(all(row["logprob_gap"] == 0 for row in rows), rows)
        self.assertTrue(any("eval/reward/mean" in row for row in self.metrics("run")))
        last = rows[-1]
        dropped = sum(value for name, value in last.items() if name.startswith("groups/dropped/"))
        self.assertEqual(last["groups/issued"],
                         last["groups/trained"] + last["groups/filtered"] + dropped + last["groups/in_flight"])
        self.assertEqual(last["groups/trained"], 12)

        stdout, _ = self.rollcall("rollouts", str(self.folder / "run"), "--jsonl")
        groups = [json.loads(line) for line in stdout.splitlines()]
        self.assertEqual(sorted(int(g.get("group_id", 0)) for g in groups), list(range(12)))
        self.assertTrue(all("trained" in g["outcome"] for g in groups))
        stdout, _ = self.rollcall("rollouts", str(self.folder / "run"), "--step", "2", "--limit", "1")
        self.assertIn("1 of 4 matching groups shown", stdout)
        self.rollcall("status", str(self.folder / "run"), code=1)

    def test_trained_model_generates_and_is_evaluated(self):
        self.train("run", "learner.steps=1")
        model = str(self.folder / "run" / "final")
        first, _ = self.rollcall("generate", model, "1+2=", "--max-tokens", "6", "--json", "-n", "3")
        again, _ = self.rollcall("generate", model, "1+2=", "--max-tokens", "6", "--json", "-n", "3")
        order = lambda text: sorted(text.splitlines())
        self.assertEqual(order(first), order(again))
        self.assertEqual(len(first.splitlines()), 3)
        stdout, _ = self.rollcall("eval", str(self.config), "--model", model, "--json")
        self.assertIn("eval/reward/mean", json.loads(stdout))

    def test_status_names_every_service_of_a_run(self):
        # Rows that are left out are counted, in status, in the log and in the metrics.
        with (self.folder / "train.jsonl").open("a") as rows:
            rows.write('nonsense\n{"prompt": "' + "1" * 40 + '", "answer": "0"}\n')
        process = self.start_train("run", "learner.steps=1000", "data.on_bad_row=skip", "data.on_long_prompt=drop",
                                   "data.max_prompt_tokens=20")
        self.await_step("run", 1)
        stdout, _ = self.rollcall("status", str(self.folder / "run"))
        self.assertIn("rows: 46 used, 1 skipped, 1 dropped, 0 truncated", stdout)
        self.assertRegex(self.logs(), "data read.*rows_used=46.*skipped=1.*dropped=1.*truncated=0")
        for service in ("learner", "generator", "reward", "reference"):
            self.assertRegex(stdout, rf"(?m)^{service} +up")
        process.send_signal(signal.SIGTERM)
        self.finish(process)

    def test_interrupt_saves_a_checkpoint_and_leaves_no_process(self):
        for name, number in (("int", signal.SIGINT), ("term", signal.SIGTERM)):
            with self.subTest(signal=name):
                process = self.start_train(name, "learner.steps=1000", "learner.checkpoint.every_steps=0")
                self.await_step(name, 1)
                children = harness.children_of(process.pid)
                self.assertGreaterEqual(len(children), 4)
                # As a terminal does: to the whole group of the foreground process.
                os.killpg(process.pid, number)
                stdout, _ = self.finish(process)
                self.assertIn("stopped", stdout)
                self.assertFalse([pid for pid in children if harness.alive(pid)])
                self.assertTrue(list((self.folder / name / "checkpoints").glob("step-*")))

    def test_children_end_when_the_command_is_killed(self):
        process = self.start_train("run", "learner.steps=1000")
        self.await_step("run", 1)
        children = harness.children_of(process.pid)
        process.kill()
        process.wait()
        harness.await_condition(lambda: not [pid for pid in children if harness.alive(pid)],
                                "children outlived their parent")

    def test_bad_configuration_is_refused_before_anything_starts(self):
        self.config.write_text(self.config.read_text().replace("lr: 1e-2", "lrr: 1e-2"))
        _, stderr = self.train("run", code=2)
        self.assertRegex(stderr, r"run\.yaml:\d+: learner\.optimizer\.lrr: unknown field.*lr")
        self.assertFalse((self.folder / "run").exists())

    def test_a_model_that_does_not_exist_is_named(self):
        _, stderr = self.train("run", "model.path=/no/such/model", code=1)
        self.assertIn("/no/such/model", stderr)

    def test_two_runs_cannot_share_a_folder(self):
        process = self.start_train("run", "learner.steps=1000")
        self.await_step("run", 1)
        _, stderr = self.train("run", code=1)
        self.assertIn("another process runs in this folder", stderr)
        process.send_signal(signal.SIGTERM)
        self.finish(process)


if __name__ == "__main__":
    harness.main()
