"""The shell game's generator against a game worked by hand, and its shares."""

import json
import pathlib
import random
import sys
import tempfile
import unittest
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import cups  # noqa: E402
import samples  # noqa: E402


class CupsTest(unittest.TestCase):
    def test_a_game_worked_by_hand(self):
        swaps = [("D", "B"), ("B", "D"), ("E", "B"), ("A", "D"), ("C", "B")]
        self.assertEqual(cups.prompt_of("D", swaps), "D:DB BD EB AD CB ")
        self.assertEqual(cups.positions("D", swaps), list("BDDAA"))
        # A missed move stays missed: the ball is followed from the wrong cup.
        slips = iter([True, False, False, False])
        self.assertEqual(cups.positions("D", swaps, lambda: next(slips)), list("DBEEE"))

    def test_sides_are_disjoint_and_demonstrations_have_their_shares(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            cups.write_data(folder, 3, demonstrations=4000, prompts=200, held_out=100)
            rows = {name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
                    for name in ("sft", "train", "held_out")}
            self.assertEqual(len({row["prompt"] for row in rows["held_out"]}), 100)
            for name, held_out in (("sft", False), ("train", False), ("held_out", True)):
                for row in rows[name]:
                    self.assertEqual(zlib.crc32(row["prompt"].encode()) % 10 == 0, held_out)
        alone = right = 0
        for row in rows["sft"]:
            start, swaps = row["prompt"][0], [tuple(pair) for pair in row["prompt"][2:].split()]
            alone += row["completion"].startswith("=")
            right += row["completion"].split("=")[1] == cups.positions(start, swaps)[-1]
        self.assertAlmostEqual(alone / 4000, 0.5, delta=0.03)
        self.assertAlmostEqual(right / 4000, 0.93, delta=0.02)

    def test_judged_samples_become_pairs_labels_and_wins(self):
        rows = [{"prompt": "p", "texts": [("a", True, True), ("b", False, True), ("c", True, False), ("", False, True)]},
                {"prompt": "q", "texts": [("d", True, True)]}]
        # What was cut off is no example to follow; an empty text teaches nothing.
        self.assertEqual(samples.pairs_of(rows, random.Random(0)), [{"prompt": "p", "chosen": "a", "rejected": "b"}])
        self.assertEqual(samples.verified(rows), [{"prompt": "p", "completion": "a"}, {"prompt": "q", "completion": "d"}])
        self.assertEqual([row["label"] for row in samples.labelled(rows)], [True, False, True, True])
        better = [{"prompt": "p", "texts": [("a", True, True)] * 4}, rows[1]]
        self.assertEqual(samples.win_rate(better, rows), (0.75 + 0.5) / 2)


if __name__ == "__main__":
    unittest.main()
