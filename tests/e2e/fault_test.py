"""Kill anything: the run completes with the parameters of an undisturbed one, bit for bit."""

import os
import signal

import harness
import tiny_model


class FaultTest(harness.EndToEndTest):
    STEPS = "learner.steps=5"

    def setUp(self):
        super().setUp()
        self.train("undisturbed", self.STEPS)
        self.expected = self.model_hash("undisturbed")

    def test_same_seed_same_parameters(self):
        self.train("again", self.STEPS)
        self.assertEqual(self.model_hash("again"), self.expected)
        self.train("other", self.STEPS, "seed=12")
        self.assertNotEqual(self.model_hash("other"), self.expected)
        # Two generators: completions arrive in another order.
        self.train("two", self.STEPS, "generator.replicas=2", "generator.max_running_samples=3")
        self.assertEqual(self.model_hash("two"), self.expected)

    def test_killed_generator_comes_back(self):
        process = self.start_train("killed", self.STEPS)
        self.await_step("killed", 1)
        os.kill(self.child(process, "generator-0"), signal.SIGKILL)
        stdout, _ = self.finish(process)
        self.assertIn("generator-0 died (signal 9", stdout)
        self.assertEqual(self.model_hash("killed"), self.expected)

    def test_killed_reward_and_reference_come_back(self):
        process = self.start_train("killed", self.STEPS)
        self.await_step("killed", 1)
        for service in ("reward", "reference"):
            os.kill(self.child(process, service), signal.SIGKILL)
        self.finish(process)
        self.assertEqual(self.model_hash("killed"), self.expected)
        self.assertFalse([name for row in self.metrics("killed") for name in row
                          if name.startswith("groups/dropped/") and row[name] > 0])

    def test_killed_reward_model_comes_back(self):
        tiny_model.write_reward_model(self.folder / "reward_model")
        model = ('reward.verifiers=[{name: quality, reward_model: '
                 f'{{path: {self.folder}/reward_model, threads: 1}}}}]')
        self.train("judged", self.STEPS, model)
        process = self.start_train("killed", self.STEPS, model)
        self.await_step("killed", 1)
        os.kill(self.child(process, "reward-model-0"), signal.SIGKILL)
        stdout, _ = self.finish(process)
        self.assertIn("reward-model-0 died (signal 9", stdout)
        self.assertEqual(self.model_hash("killed"), self.model_hash("judged"))
        self.assertNotEqual(self.model_hash("killed"), self.expected)
        self.assertFalse([name for row in self.metrics("killed") for name in row
                          if name.startswith("groups/dropped/") and row[name] > 0])

    def test_killed_learner_resumes_exactly(self):
        process = self.start_train("resumed", self.STEPS)
        self.await_step("resumed", 3)
        os.kill(self.child(process, "learner"), signal.SIGKILL)
        _, stderr = self.finish(process, code=1)
        self.assertIn("signal 9", stderr)
        self.train("resumed", self.STEPS)
        self.assertEqual(self.model_hash("resumed"), self.expected)

    def test_interrupted_run_resumes_exactly(self):
        process = self.start_train("resumed", self.STEPS, "learner.checkpoint.every_steps=0")
        self.await_step("resumed", 2)
        process.send_signal(signal.SIGINT)
        self.finish(process)
        self.train("resumed", self.STEPS)
        self.assertEqual(self.model_hash("resumed"), self.expected)


if __name__ == "__main__":
    harness.main()
