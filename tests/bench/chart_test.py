"""The PNG files are ones, and the lines are where the numbers are."""

import struct
import unittest
import zlib

import chart


def decode(png):
    """(width, height, rows of RGB tuples); checks every chunk's length and checksum."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, []
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at:at + 8])
        data = png[at + 8:at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length:at + 12 + length])[0] == zlib.crc32(kind + data)
        chunks.append((kind, data))
        at += 12 + length
    assert [kind for kind, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, kind = struct.unpack(">IIBB", chunks[0][1][:10])
    assert (depth, kind) == (8, 2)
    pixels = zlib.decompress(chunks[1][1])
    rows = []
    for y in range(height):
        row = pixels[y * (1 + 3 * width):(y + 1) * (1 + 3 * width)]
        assert row[0] == 0
        rows.append([tuple(row[1 + 3 * x:4 + 3 * x]) for x in range(width)])
    return width, height, rows


class ChartTest(unittest.TestCase):
    def test_a_curve_is_drawn_where_its_points_are(self):
        png = chart.line_chart({"up": [(0, 0.0), (10, 1.0)], "flat": [(0, 0.5), (10, 0.5)]}, "title", "seconds",
                               "reward", (0, 1))
        width, height, rows = decode(png)
        self.assertEqual((width, height), (1200, 700))
        left, right, top, bottom = 90, 1200 - 330, 60, 700 - 70
        middle = (left + right) // 2
        up, flat = chart.color(0, 2), chart.color(1, 2)

        def has(rgb, x, y):
            return any(rows[y + dy][x + dx] == rgb for dx in range(-2, 3) for dy in range(-2, 3))

        quarter = left + (right - left) // 4
        self.assertTrue(has(up, quarter, bottom - (bottom - top) // 4))
        self.assertFalse(has(up, quarter, top + (bottom - top) // 4))
        self.assertTrue(has(flat, quarter, (top + bottom) // 2))
        self.assertTrue(has(flat, middle, (top + bottom) // 2))
        self.assertEqual(rows[3][3], chart.PAPER)

    def test_letters_can_be_told_apart(self):
        self.assertEqual(len(set(chart._GLYPHS.values())), len(chart._GLYPHS))
        for letter in "grpo dr_grpo reinforce_pp_baseline cispo 0123456789 reward seconds":
            self.assertIn(letter, chart._GLYPHS)
        image = chart.Image(20, 20)
        image.text(0, 0, "i", scale=1)
        self.assertEqual([x for x in range(6) if image.point(x, 6) == chart.INK], [1, 2, 3])

    def test_colors_differ(self):
        self.assertEqual(len({chart.color(i, 13) for i in range(13)}), 13)

    def test_no_points_are_a_chart_too(self):
        decode(chart.line_chart({"nothing": []}, "t", "x", "y", (0, 1)))


if __name__ == "__main__":
    unittest.main()
