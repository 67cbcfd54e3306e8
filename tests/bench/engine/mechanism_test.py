"""The arithmetic of the engine's bench: pairs alternate, disturbed ones are void, ratios are taken pair by pair, and a run
goes on where the last one ended."""

import pathlib
import subprocess
import sys
import tempfile
import time
import types
import unittest
from unittest import mock

import engine_bench
import machine
import peers
from report import text_of
from results import Results

X = {"x": lambda result: result["x"]}


def pair(ours, theirs, load=0.0):
    return machine.Pair({"x": ours}, {"x": theirs}, load)


class SummaryTest(unittest.TestCase):
    def test_ratios_are_of_pairs_not_of_medians(self):
        summary = machine.summarize([pair(2, 1), pair(30, 10), pair(8, 2)], X)["x"]
        self.assertEqual(summary["ratio"], {"median": 3, "min": 2, "max": 4, "count": 3})
        self.assertEqual(summary["ours"]["median"], 8)
        self.assertEqual(summary["theirs"]["median"], 2)

    def test_disturbed_pairs_are_void_unless_kept(self):
        pairs = [pair(2, 1), pair(100, 1, load=0.5)]
        summary = machine.summarize(pairs, X)
        self.assertEqual(summary["x"]["ratio"]["count"], 1)
        self.assertEqual(summary["disturbed"], 1)
        kept = machine.summarize(pairs, X, keep_disturbed=True)
        self.assertEqual(kept["x"]["ratio"]["count"], 2)
        self.assertEqual(kept["disturbed pairs"], "kept")

    def test_no_ratio_where_every_pair_was_disturbed(self):
        summary = machine.summarize([pair(2, 1, load=0.5)], X)
        self.assertNotIn("x", summary)
        self.assertIn("disturbed: 1", text_of(summary))

    def test_without_a_peer_there_is_our_side_alone(self):
        pairs = [machine.Pair({"x": 3}, None, 0.0)]
        summary = machine.summarize(pairs, X, own={"twice": lambda result: 2 * result["x"]})
        self.assertEqual(summary["x"]["ours"]["median"], 3)
        self.assertNotIn("ratio", summary["x"])
        self.assertEqual(summary["twice"]["median"], 6)
        self.assertIn("twice: 6 (6 to 6, 1)", text_of(summary))


def a_bench(loads, results=None, **options):
    """A bench of one section that notes the order of the sides, under these loads."""
    order, watch = [], mock.Mock()
    watch.other_load.side_effect = loads
    bench = engine_bench.Bench.__new__(engine_bench.Bench)
    bench.args = types.SimpleNamespace(**{"pairs": 2, "keep_disturbed": False, "no_peers": False, "quick": False,
                                          "json": False, **options})
    bench.deadline, bench.results = time.monotonic() + 60, results or Results(None, {})
    sides = (lambda: order.append("a") or {"x": 6}, lambda: order.append("b") or {"x": 2}, X, {})
    with mock.patch.object(machine, "LoadWatch", return_value=watch), \
            mock.patch.dict(engine_bench.SECTIONS, {"toy": lambda *_: sides}):
        return bench.measure("toy", "tiny")[1], "".join(order)


class MeasureTest(unittest.TestCase):
    def test_sides_alternate_until_enough_pairs_are_undisturbed(self):
        summary, order = a_bench([0, 0, 0, 0.9, 0, 0])
        self.assertEqual(order, "ababab")
        self.assertEqual((summary["pairs"], summary["disturbed"]), (3, 1))
        self.assertEqual(summary["x"]["ratio"]["median"], 3)

    def test_gives_up_after_twice_as_many(self):
        self.assertEqual(a_bench([1.0] * 20, pairs=3)[0]["pairs"], 6)

    def test_without_peers_our_side_runs_alone(self):
        summary, order = a_bench([0] * 4, no_peers=True)
        self.assertEqual(order, "aa")
        self.assertEqual(summary["peer"], "--no-peers")

    def test_a_later_run_goes_on_where_the_last_one_ended(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "results.json"
            a_bench([0] * 4, Results(path, {"worker": 1}))
            summary, order = a_bench([0] * 4, Results(path, {"worker": 1}), pairs=3)
            self.assertEqual(order, "ab")
            self.assertEqual(summary["x"]["ratio"]["count"], 3)
            _, order = a_bench([0] * 8, Results(path, {"worker": 2}), pairs=2)
            self.assertEqual(order, "abab", "another build's pairs were taken for this one's")


class LoadWatchTest(unittest.TestCase):
    def test_other_load_is_what_is_busy_beyond_oneself_and_ones_children(self):
        with mock.patch.object(machine, "_busy_seconds", side_effect=[100.0, 118.0]), \
                mock.patch.object(machine, "_own_seconds", side_effect=[3.0, 13.0]), \
                mock.patch.object(machine, "cores", return_value=2), \
                mock.patch.object(machine.time, "monotonic", side_effect=[50.0, 60.0]):
            # Busy for 18 of 20 core seconds, 10 of them our own.
            self.assertAlmostEqual(machine.LoadWatch().other_load(), 0.4)

    def test_the_machine_says_how_busy_it_is(self):
        before = machine._busy_seconds(), machine._own_seconds()
        subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.2: pass"], check=True)
        self.assertGreater(machine._busy_seconds(), before[0])
        self.assertGreater(machine._own_seconds(), before[1] + 0.15)


class PeersTest(unittest.TestCase):
    def test_a_missing_folder_of_scripts_is_said(self):
        with mock.patch.dict("os.environ", {"ROLLCALL_PEERS": "/nowhere"}):
            with self.assertRaisesRegex(peers.Absent, "/nowhere/make_model.py"):
                peers.scripts()


if __name__ == "__main__":
    unittest.main(verbosity=2)
