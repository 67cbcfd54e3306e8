"""A learner of two ranks: trains as one does, and survives the loss of either."""

import array
import json
import os
import signal
import struct

import harness

TWO = "learner.ranks=2"


def weights(path):
    """All float32 numbers of a safetensors file."""
    data = path.read_bytes()
    header = json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]])
    numbers = array.array("f")
    numbers.frombytes(data[len(data) - max(t["data_offsets"][1] for n, t in header.items() if n != "__metadata__"):])
    return numbers


class RanksTest(harness.EndToEndTest):
    STEPS = "learner.steps=5"

    def log(self, name, service):
        return (self.folder / name / "logs" / f"{service}.log").read_text()

    def test_two_ranks_equal_one(self):
        sets = (self.STEPS, "stage=sft", "data.completion_column=answer", "data.evaluation=[]",
                "learner.optimizer.lr=1e-4")
        self.train("one", *sets)
        self.train("two", *sets, TWO)
        self.train("again", *sets, TWO)
        self.assertEqual(self.model_hash("again"), self.model_hash("two"))
        one, two = (weights(self.folder / name / "final" / "model.safetensors") for name in ("one", "two"))
        self.assertEqual(len(one), len(two))
        self.assertLess(max(abs(a - b) for a, b in zip(one, two)), 1e-6)
        losses = [[row["loss"] for row in self.metrics(name)] for name in ("one", "two")]
        self.assertEqual(len(losses[0]), 5)
        for a, b in zip(*losses):
            self.assertAlmostEqual(a, b, delta=1e-6)
        last = self.metrics("two")[-1]
        self.assertGreater(last["sent_bytes"], 0)
        self.assertGreater(last["time/all_reduce_seconds"], 0)
        self.assertIn("following rank 0", self.log("two", "learner-1"))
        # The checkpoint is one of a run without ranks: it goes on with another number of them.
        self.train("two", *sets, "learner.steps=6")
        self.assertIn("resumed", self.log("two", "learner"))
        self.assertEqual(self.metrics("two")[-1]["step"], 6)

    def test_killed_ranks_come_back(self):
        self.train("undisturbed", self.STEPS, TWO)
        expected = self.model_hash("undisturbed")
        for rank in ("learner-1", "learner"):
            name = f"killed-{rank}"
            process = self.start_train(name, self.STEPS, TWO)
            self.await_step(name, 2)
            os.kill(self.child(process, rank), signal.SIGKILL)
            stdout, _ = self.finish(process)
            self.assertIn(f"{rank} died (signal 9", stdout)
            self.assertEqual(self.model_hash(name), expected)
            survivor = "learner" if rank == "learner-1" else "learner-1"
            self.assertIn("lost rank", self.log(name, survivor))
            self.assertEqual([row["step"] for row in self.metrics(name) if "reward/mean" in row], [1, 2, 3, 4, 5])

    def test_stopped_ranks_resume_exactly(self):
        self.train("undisturbed", self.STEPS, TWO)
        process = self.start_train("stopped", self.STEPS, TWO, "learner.checkpoint.every_steps=0")
        self.await_step("stopped", 2)
        process.send_signal(signal.SIGTERM)
        self.finish(process)
        self.assertTrue(list((self.folder / "stopped" / "checkpoints").glob("step-*")))
        for service in ("learner", "learner-1"):
            self.assertIn("stopped", self.log("stopped", service).split("\n")[-2])
        self.train("stopped", self.STEPS, TWO)
        self.assertEqual(self.model_hash("stopped"), self.model_hash("undisturbed"))

    def test_a_rank_that_is_told_to_stop_stops_the_run(self):
        process = self.start_train("evicted", "learner.steps=100000", "stage=sft", "data.completion_column=answer",
                                   "data.evaluation=[]",
                                   "learner.checkpoint.every_steps=0", TWO)
        harness.await_condition(lambda: len(self.metrics("evicted")) > 1, "no step")
        # SIGTERM to one rank alone, as the eviction of a pod is: the run ends with a checkpoint.
        os.kill(self.child(process, "learner-1"), signal.SIGTERM)
        self.finish(process)
        self.assertIn("rank 1 is stopping", self.log("evicted", "learner"))
        self.assertTrue(list((self.folder / "evicted" / "checkpoints").glob("step-*")))


if __name__ == "__main__":
    harness.main()
