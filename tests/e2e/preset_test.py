"""The objectives that need more than samples and a reference, through the real processes: what they add is there, every
group is accounted for, and a learner that is killed goes on to the same parameters, bit for bit."""

import os
import signal

import harness
import tiny_model

PRESETS = {
    "dapo": ("algorithm.preset=dapo", "algorithm.kl_coefficient=0", "algorithm.dynamic_sampling_metric=shape",
             "learner.optimizer.lr=1e-3"),
    "ppo": ("algorithm.preset=ppo", "algorithm.epochs_per_batch=2", "learner.critic.optimizer.lr=1e-2"),
    "remax": ("algorithm.preset=remax",),
    "online_dpo": ("algorithm.preset=online_dpo", "algorithm.kl_coefficient=0"),
    "iterative_dpo": ("algorithm.preset=iterative_dpo", "algorithm.kl_coefficient=0", "algorithm.mini_batches=2"),
    "asynchronous": ("learner.max_staleness=1",),
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

    def test_iterative_dpo_takes_several_updates_a_round_against_where_it_began(self):
        rows = self.run_preset("iterative_dpo")
        self.assertTrue(all(row["pairs"] + row["tied_groups"] == 4 for row in rows), rows)
        self.assertTrue(all(row["updates"] == 2 * min(2, row["pairs"]) for row in rows), rows)
        self.assertFalse((self.folder / "iterative_dpo" / "logs" / "reference.log").exists())
        self.kill_and_resume("iterative_dpo")

    def test_an_asynchronous_run_weighs_tokens_by_their_age(self):
        rows = self.run_preset("asynchronous")
        self.assertGreater(rows[1]["rollout/staleness"], 0)
        # The ratio is taken to the policy that the step began with, not to the one that sampled.
        self.assertTrue(all(row["ratio_min"] == row["ratio_max"] == 1 for row in rows), rows)
        self.assertIn("behavior_correction: token_truncate",
                      (self.folder / "asynchronous" / "config.yaml").read_text())

    def distill(self, name, teacher, *sets, code=0):
        return self.train(name, "algorithm.preset=distillation", "algorithm.kl_coefficient=1", "reward.verifiers=[]",
                          f"reference.model_path={self.folder / teacher}", "evaluation.samples_per_prompt=8", *sets,
                          code=code)

    def test_distillation_needs_a_teacher_and_no_reward(self):
        self.train("grown", "learner.steps=20")
        self.distill("distilled", "grown/final", "learner.steps=20", "evaluation.at_start=true",
                     "learner.optimizer.lr=1e-2")
        rows = [row for row in self.metrics("distilled") if "reward/mean" in row]
        self.assertEqual([row["reward/mean"] for row in rows], [0] * 20)
        kl = [row["eval/kl"] for row in self.metrics("distilled") if "eval/kl" in row]
        self.assertEqual(len(kl), 2)
        self.assertLess(kl[1], 0.7 * kl[0])
        self.assertFalse((self.folder / "distilled" / "logs" / "reward.log").exists())
        # One family's models may pad their vocabulary differently.
        tiny_model.write(self.folder / "padded", seed=5, vocab_size=20)
        self.distill("padded-teacher", "padded", "learner.steps=1",
                     'reward.verifiers=[{name: shape, weight: 0, regex: {pattern: "[0-9]"}}]')
        row = [row for row in self.metrics("padded-teacher") if "reward/mean" in row][0]
        self.assertEqual(row["reward/mean"], 0)
        self.assertGreater(row["reward/shape"], 0)

    def test_a_teacher_of_another_language_is_refused(self):
        for name, vocabulary, why in (("larger", 20, "has a vocabulary of 20, the policy one of 16"),
                                      ("foreign", 16, "has another tokenizer than the policy")):
            path = tiny_model.write(self.folder / name, seed=5, vocab_size=vocabulary) / "tokenizer.json"
            path.write_text(path.read_text().replace('"0"', '"x"'))
            _, stderr = self.distill(f"by-{name}", name, code=1)
            self.assertIn(why, stderr + self.logs())

    def test_a_refreshed_reference_needs_no_service(self):
        rows = self.run_preset("refreshed")
        self.assertEqual(rows[2]["kl"], 0)
        self.assertGreater(rows[1]["kl"], 0)
        self.assertFalse((self.folder / "refreshed" / "logs" / "reference.log").exists())


if __name__ == "__main__":
    harness.main()
