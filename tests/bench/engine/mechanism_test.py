"""The arithmetic of the engine's bench: pairs alternate, disturbed ones are void, ratios are taken pair by pair."""

import subprocess
import sys
import time
import unittest
from unittest import mock

import machine
import peers
from engine_bench import text_of


def pair(ours, theirs, load=0.0):
    return machine.Pair({"x": ours}, {"x": theirs}, load)


class SummaryTest(unittest.TestCase):
    def test_ratios_are_of_pairs_not_of_medians(self):
        summary = machine.summarize([pair(2, 1), pair(30, 10), pair(8, 2)], lambda r: r["x"])
        self.assertEqual(summary["ratio"], {"median": 3, "min": 2, "max": 4, "count": 3})
        self.assertEqual(summary["ours"]["median"], 8)
        self.assertEqual(summary["theirs"]["median"], 2)

    def test_disturbed_pairs_are_void_unless_kept(self):
        pairs = [pair(2, 1), pair(100, 1, load=0.5)]
        self.assertEqual(machine.summarize(pairs, lambda r: r["x"])["ratio"]["count"], 1)
        self.assertEqual(machine.summarize(pairs, lambda r: r["x"])["disturbed"], 1)
        kept = machine.summarize(pairs, lambda r: r["x"], keep_disturbed=True)
        self.assertEqual(kept["ratio"]["count"], 2)
        self.assertTrue(kept["disturbed_pairs_kept"])

    def test_no_ratio_where_every_pair_was_disturbed(self):
        summary = machine.summarize([pair(2, 1, load=0.5)], lambda r: r["x"])
        self.assertNotIn("ratio", summary)
        self.assertIn("disturbed", text_of(summary))


class InterleaveTest(unittest.TestCase):
    def run_with_loads(self, loads, wanted):
        order, watch = [], mock.Mock()
        watch.other_load.side_effect = loads
        with mock.patch.object(machine, "LoadWatch", return_value=watch):
            pairs = machine.interleave(lambda: order.append("a") or {}, lambda: order.append("b") or {}, wanted,
                                       time.monotonic() + 60)
        return pairs, "".join(order)

    def test_sides_alternate_until_enough_pairs_are_undisturbed(self):
        pairs, order = self.run_with_loads([0, 0, 0, 0.9, 0, 0], wanted=2)
        self.assertEqual(order, "ababab")
        self.assertEqual([p.disturbed for p in pairs], [False, True, False])

    def test_gives_up_after_twice_as_many(self):
        pairs, _ = self.run_with_loads([1.0] * 20, wanted=3)
        self.assertEqual(len(pairs), 6)


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
