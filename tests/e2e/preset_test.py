"""The objectives that need more than samples and a reference, through the real processes: what they add is there, every
group is accounted for, and a learner that is killed goes on to the same parameters, bit for bit."""

import os
import signal

import harness

PRESETS = {
    "dapo": ("algorithm.preset=dapo", "algorithm.kl_coefficient=0", "algorithm.dynamic_sampling_metric=shape",
             "learner.optimizer.lr=1e-3"),
    "ppo": ("algorithm.preset=ppo", "algorithm.epochs_per_batch=2", "learner.critic.optimizer.lr=1e-2"),
    "remax": ("algorithm.preset=remax",),
    "online_dpo": ("algorithm.preset=online_dpo", "algorithm.kl_coefficient=0"),
    "refreshed": ("algorithm.reference_refresh_steps=2",),
}
STEPS = "learner.steps=3"


class PresetTest(harness.EndToEndTest):
    def run_preset(self, name):
        """Three steps; returns their rows."""
        self.train(name, STEPS, *PRESETS[name])
        rows = [row for row in self.metrics(name) if "reward/mean" in row]
        self.assertEqual([row["step"] for row in rows], [1, 2, 3])
        self.assertTrue(all(row["logprob_gap"] == 0 for row in rows if "logprob_gap" in row), rows)
        last = rows[-1]
        dropped = sum(value for key, value in last.items() if key.startswith("groups/dropped/"))
        self.assertEqual(last["groups/issued"],
                         last["groups/trained"] + last["groups/filtered"] + dropped + last["groups/in_flight"])
        self.assertEqual(last["groups/trained"], 12)
        return rows

    def kill_and_resume(self, name):
        """Another run of the preset whose learner is killed: it must end as the first."""
        process = self.start_train(f"{name}-killed", STEPS, *PRESETS[name])
        self.await_step(f"{name}-killed", 1)
        os.kill(self.child(process, "learner"), signal.SIGKILL)
        self.finish(process, code=1)
        self.train(f"{name}-killed", STEPS, *PRESETS[name])
        self.assertEqual(self.model_hash(f"{name}-killed"), self.model_hash(name))

    def test_dapo_filters_and_refills(self):
        rows = self.run_preset("dapo")
        self.assertTrue(all(row["rollout/groups"] == 4 for row in rows), rows)
        filtered = sum(row["rollout/filtered_groups"] for row in rows)
        self.assertEqual(rows[-1]["groups/filtered"], filtered)
        self.assertGreater(filtered, 0)
        self.kill_and_resume("dapo")

    def test_dynamic_sampling_that_finds_nothing_ends_with_its_reason(self):
        # Nothing the model can write has a letter in it: every group is all wrong.
        _, stderr = self.train("never", STEPS, *PRESETS["dapo"], "reward.verifiers[0].regex.pattern=z",
                               "algorithm.max_sampling_rounds=2", code=1)
        self.assertIn("dynamic sampling issued 8 groups (2 rounds of 4", stderr + self.logs())

    def test_ppo_trains_its_critic(self):
        rows = self.run_preset("ppo")
        self.assertTrue(all(row["critic_updates"] == 2 and row["value_loss"] > 0 for row in rows), rows)
        checkpoint = sorted((self.folder / "ppo" / "checkpoints").glob("step-*"))[-1]
        self.assertTrue((checkpoint / "critic.safetensors").exists())
        self.kill_and_resume("ppo")
        # What was learned is where a later run's critic can start.
        self.train("later", "learner.steps=1", *PRESETS["ppo"],
                   f"learner.critic.path={self.folder / 'ppo' / 'final_critic'}")
        first, later = rows[0], [row for row in self.metrics("later") if "reward/mean" in row][0]
        self.assertNotEqual(first["value_mean"], later["value_mean"])

    def test_remax_compares_with_the_greedy_completion(self):
        self.run_preset("remax")

    def test_online_dpo_pairs_samples(self):
        rows = self.run_preset("online_dpo")
        self.assertTrue(all(row["pairs"] + row["tied_groups"] == 4 for row in rows), rows)
        self.assertGreater(sum(row["pairs"] for row in rows), 0)

    def test_a_refreshed_reference_needs_no_service(self):
        rows = self.run_preset("refreshed")
        self.assertEqual(rows[2]["kl"], 0)
        self.assertGreater(rows[1]["kl"], 0)
        self.assertFalse((self.folder / "refreshed" / "logs" / "reference.log").exists())


if __name__ == "__main__":
    harness.main()
