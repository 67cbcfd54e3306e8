"""A run put together by hand over TCP, and its learner watched and steered over grpcio."""

import json
import pathlib
import signal
import tempfile
import unittest

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

import tiny_model
from harness import DEADLINE_S, await_condition, contract, listed_services, scrape, start_service

learner, learner_grpc = contract("learner")
# Where no program of a user listens.
NOBODY = "127.0.0.1:1"

CONFIG = """
name: steered
output_dir: {folder}
seed: 11
model: {{path: {folder}/model}}
data:
  train: [{{path: {folder}/train.jsonl}}]
sampling: {{max_tokens: 4}}
algorithm: {{samples_per_prompt: 2, kl_coefficient: 0.05}}
reward:
  address: "{reward}"
  verifiers: [{{name: digit, regex: {{pattern: "[0-9]"}}}}]
generator: {{threads: 1, kv_cache_bytes: 16777216, wait_for_weights: true, addresses: ["{generator}"]}}
reference: {{threads: 1, addresses: ["{reference}"]}}
learner:
  steps: {steps}
  prompts_per_step: 2
  threads: 1
  optimizer: {{lr: 1e-3}}
  checkpoint: {{every_steps: 0}}
"""


class LearnerTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="rollcall_learner_")))
        tiny_model.write(self.folder / "model")
        rows = [{"prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in range(20)]
        (self.folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.addresses = {name: NOBODY for name in ("generator", "reward", "reference")}

    def start(self, name, steps):
        config = CONFIG.format(folder=self.folder, steps=steps, **self.addresses)
        process, address, metrics = start_service(name, config, self.folder)
        self.enterContext(process)
        return process, address, metrics

    def start_run(self, steps):
        """(process, metrics address) of the learner, with the services it needs; self.stub speaks to it."""
        for name in self.addresses:
            _, self.addresses[name], _ = self.start(name, steps)
        return self.start_learner(steps)

    def start_learner(self, steps):
        process, address, metrics = self.start("learner", steps)
        self.channel = self.enterContext(grpc.insecure_channel(address))
        self.stub = learner_grpc.LearnerStub(self.channel)
        return process, metrics

    def status(self):
        return self.stub.GetStatus(learner.GetStatusRequest(), timeout=DEADLINE_S)

    def await_phase(self, phase):
        return await_condition(lambda: (status := self.status()).phase == phase and status,
                               f"the learner never came to {learner.LearnerPhase.Name(phase)}")

    def watch(self, from_step=0):
        """Messages of WatchMetrics; a watcher that comes before the run folder is open is to try again."""
        request = learner.WatchMetricsRequest(from_step=from_step)

        def attempt():
            stream = iter(self.stub.WatchMetrics(request, timeout=DEADLINE_S))
            try:
                return next(stream), stream
            except grpc.RpcError as error:
                self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE)
                return None

        first, stream = await_condition(attempt, "no metrics came")
        yield first
        yield from stream

    def test_a_run_is_watched_paused_saved_resumed_and_stopped(self):
        process, metrics = self.start_run(steps=100000)
        health = health_pb2_grpc.HealthStub(self.channel)
        await_condition(lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S).status
                        == health_pb2.HealthCheckResponse.SERVING, "the learner never served")
        self.assertIn("rollcall.v1.Learner", listed_services(process))

        watched = self.watch()
        seen = [next(watched) for _ in range(3)]
        self.assertEqual([message.step for message in seen], [1, 2, 3])
        self.assertEqual([message.values["logprob_gap"] for message in seen], [0, 0, 0])
        self.assertGreaterEqual(seen[2].time, seen[0].time)

        self.stub.Pause(learner.PauseRequest(), timeout=DEADLINE_S)
        paused = self.await_phase(learner.LEARNER_PHASE_PAUSED)
        self.assertGreaterEqual(paused.step, 3)
        self.assertEqual(paused.total_steps, 100000)
        self.assertEqual(paused.run_dir, str(self.folder / "steered"))
        self.assertEqual((paused.version.lineage, paused.version.step), (1, paused.step))
        self.assertEqual(paused.checkpoint_dir, "")
        counts = paused.rollouts
        self.assertEqual(counts.issued, counts.trained + counts.filtered + sum(counts.dropped.values())
                         + counts.in_flight)
        self.assertEqual(counts.trained, 2 * paused.step)

        # A checkpoint can be had while paused, twice the same.
        saved = self.stub.SaveCheckpoint(learner.SaveCheckpointRequest(), timeout=DEADLINE_S).checkpoint_dir
        self.assertEqual(pathlib.Path(saved), self.folder / f"steered/checkpoints/step-{paused.step:08d}")
        self.assertTrue(pathlib.Path(saved).is_dir())
        again = self.stub.SaveCheckpoint(learner.SaveCheckpointRequest(), timeout=DEADLINE_S).checkpoint_dir
        self.assertEqual(again, saved)
        still = self.await_phase(learner.LEARNER_PHASE_PAUSED)
        self.assertEqual((still.step, still.checkpoint_dir), (paused.step, saved))

        page = scrape(metrics)
        self.assertIn(f"rollcall_learner_step {paused.step}", page)
        self.assertIn("rollcall_learner_lineage 1", page)
        self.assertIn(f'rollcall_learner_groups{{state="trained"}} {2 * paused.step}', page)
        self.assertIn('rollcall_learner_step_value{name="reward/mean"}', page)

        self.stub.Resume(learner.ResumeRequest(), timeout=DEADLINE_S)
        later = self.watch(from_step=paused.step + 1)
        self.assertEqual(next(later).step, paused.step + 1)

        self.stub.Stop(learner.StopRequest(reason="seen enough"), timeout=DEADLINE_S)
        # The stream ends with the run, in good order.
        rest = [message.step for message in later]
        self.assertEqual(rest, list(range(paused.step + 2, paused.step + 2 + len(rest))))
        self.assertEqual(process.await_end(), 0)
        self.assertIn("seen enough", "\n".join(process.log))
        rows = [json.loads(line) for line in (self.folder / "steered/metrics.jsonl").read_text().splitlines()]
        self.assertEqual(rows[0]["reward/mean"], seen[0].values["reward/mean"])
        last = max(row["step"] for row in rows)
        newest = max((self.folder / "steered/checkpoints").glob("step-*"))
        self.assertEqual(int(newest.name.removeprefix("step-")), last)

        # The next start is a new lineage, and goes on from there.
        process, _ = self.start_learner(last + 2)
        steps = [message.step for message in self.watch(from_step=last + 1)]
        self.assertEqual(steps, [last + 1, last + 2])
        self.assertEqual(process.await_end(), 0)
        self.assertTrue((self.folder / "steered/final/model.safetensors").exists())

    def test_sigterm_saves_and_exits_0_and_a_waiting_learner_says_for_what(self):
        _, self.addresses["generator"], _ = self.start("generator", 10)
        _, self.addresses["reward"], _ = self.start("reward", 10)
        process, _ = self.start_learner(10)
        await_condition(lambda: NOBODY in self.status().waiting_for, "it never said what it waits for")
        self.assertEqual(self.status().phase, learner.LEARNER_PHASE_WAITING)
        process.signal(signal.SIGTERM)
        self.assertEqual(process.await_end(), 0)

        _, self.addresses["reference"], _ = self.start("reference", 10)
        process, _ = self.start_learner(100000)
        next(self.watch())
        process.signal(signal.SIGTERM)
        self.assertEqual(process.await_end(), 0)
        self.assertTrue(list((self.folder / "steered/checkpoints").glob("step-*")))


if __name__ == "__main__":
    unittest.main()
