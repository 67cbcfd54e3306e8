"""Line charts as PNG files, with nothing but the standard library."""

import math
import struct
import zlib

# Letters of 5 x 7 points, row by row from the top, the left point in the highest of five bits.
_GLYPHS = {
    " ": (0, 0, 0, 0, 0, 0, 0), "-": (0, 0, 0, 31, 0, 0, 0), "_": (0, 0, 0, 0, 0, 0, 31),
    ".": (0, 0, 0, 0, 0, 12, 12), ",": (0, 0, 0, 0, 12, 4, 8), ":": (0, 12, 12, 0, 12, 12, 0),
    "%": (24, 25, 2, 4, 8, 19, 3), "/": (0, 1, 2, 4, 8, 16, 0), "(": (2, 4, 8, 8, 8, 4, 2),
    ")": (8, 4, 2, 2, 2, 4, 8), "+": (0, 4, 4, 31, 4, 4, 0), "=": (0, 0, 31, 0, 31, 0, 0),
    "0": (14, 17, 19, 21, 25, 17, 14), "1": (4, 12, 4, 4, 4, 4, 14), "2": (14, 17, 1, 2, 4, 8, 31),
    "3": (31, 2, 4, 2, 1, 17, 14), "4": (2, 6, 10, 18, 31, 2, 2), "5": (31, 16, 30, 1, 1, 17, 14),
    "6": (6, 8, 16, 30, 17, 17, 14), "7": (31, 1, 2, 4, 8, 8, 8), "8": (14, 17, 17, 14, 17, 17, 14),
    "9": (14, 17, 17, 15, 1, 2, 12), "a": (0, 0, 14, 1, 15, 17, 15), "b": (16, 16, 22, 25, 17, 17, 30),
    "c": (0, 0, 14, 16, 16, 17, 14), "d": (1, 1, 13, 19, 17, 17, 15), "e": (0, 0, 14, 17, 31, 16, 14),
    "f": (6, 9, 8, 28, 8, 8, 8), "g": (0, 15, 17, 17, 15, 1, 14), "h": (16, 16, 22, 25, 17, 17, 17),
    "i": (4, 0, 12, 4, 4, 4, 14), "j": (2, 0, 6, 2, 2, 18, 12), "k": (16, 16, 18, 20, 24, 20, 18),
    "l": (12, 4, 4, 4, 4, 4, 14), "m": (0, 0, 26, 21, 21, 17, 17), "n": (0, 0, 22, 25, 17, 17, 17),
    "o": (0, 0, 14, 17, 17, 17, 14), "p": (0, 0, 30, 17, 30, 16, 16), "q": (0, 0, 13, 19, 15, 1, 1),
    "r": (0, 0, 22, 25, 16, 16, 16), "s": (0, 0, 14, 16, 14, 1, 30), "t": (8, 8, 28, 8, 8, 9, 6),
    "u": (0, 0, 17, 17, 17, 19, 13), "v": (0, 0, 17, 17, 17, 10, 4), "w": (0, 0, 17, 17, 21, 21, 10),
    "x": (0, 0, 17, 10, 4, 10, 17), "y": (0, 0, 17, 17, 15, 1, 14), "z": (0, 0, 31, 2, 4, 8, 31),
}
_UNKNOWN = (31, 17, 17, 17, 17, 17, 31)
INK, GRID, PAPER = (40, 40, 40), (225, 225, 225), (255, 255, 255)


def color(index, count):
    """Colours as far apart as `count` of them can be, alternately darker and lighter."""
    hue = 6.0 * index / max(count, 1)
    strength = 0.85 if index % 2 == 0 else 0.6
    part = [max(0.0, min(1.0, abs((hue - offset) % 6 - 3) - 1)) for offset in (0, 2, 4)]
    return tuple(round(255 * strength * value) for value in part)


class Image:
    """RGB points, (0, 0) at the top left. What is drawn outside is left out."""

    def __init__(self, width, height):
        self.width, self.height = width, height
        self._rows = [bytearray(bytes(PAPER) * width) for _ in range(height)]

    def blend(self, x, y, rgb, share=1.0):
        """Lays `rgb` over a point with `share` (0 to 1) of it."""
        if 0 <= x < self.width and 0 <= y < self.height and share > 0:
            row, at = self._rows[y], 3 * x
            for i, value in enumerate(rgb):
                row[at + i] = round(row[at + i] + (value - row[at + i]) * min(share, 1.0))

    def point(self, x, y):
        return tuple(self._rows[y][3 * x:3 * x + 3])

    def line(self, x0, y0, x1, y1, rgb, thickness=1.0):
        """A straight line with soft edges: each point gets as much ink as it is near."""
        reach = thickness / 2 + 1
        length = math.hypot(x1 - x0, y1 - y0)
        for y in range(math.floor(min(y0, y1) - reach), math.ceil(max(y0, y1) + reach) + 1):
            for x in range(math.floor(min(x0, x1) - reach), math.ceil(max(x0, x1) + reach) + 1):
                along = 0.0 if length == 0 else ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length ** 2
                along = max(0.0, min(1.0, along))
                distance = math.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0))
                self.blend(x, y, rgb, thickness / 2 + 0.5 - distance)

    def text(self, x, y, text, rgb=INK, scale=2):
        """Small letters with the top left at (x, y); a letter is 6 x 7 points times `scale`."""
        for letter in text.lower():
            for row, bits in enumerate(_GLYPHS.get(letter, _UNKNOWN)):
                for column in range(5):
                    if bits >> (4 - column) & 1:
                        for i in range(scale * scale):
                            self.blend(x + column * scale + i % scale, y + row * scale + i // scale, rgb)
            x += 6 * scale

    def png(self):
        """The bytes of the file (W3C PNG, 8-bit RGB, no filter)."""
        def chunk(kind, data):
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        pixels = b"".join(b"\0" + bytes(row) for row in self._rows)
        return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels, 9)) +
                chunk(b"IEND", b""))


def _ticks(low, high, most):
    """Round numbers from `low` to `high`, at most about `most` of them."""
    rough = (high - low) / most
    unit = 10 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
    first = math.ceil(low / step)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(curves, title, x_label, y_label, y_range, size=(1200, 700)):
    """A PNG of `curves`, {name: [(x, y), …]}: one line each, named on the right in the line's colour."""
    left, right, top, bottom = 90, 330, 60, 70
    image = Image(*size)
    width, height = size[0] - left - right, size[1] - top - bottom
    x_high = max((x for points in curves.values() for x, _ in points), default=1) or 1
    low, high = y_range

    def place(x, y):
        return left + width * x / x_high, top + height * (high - y) / (high - low)

    image.text(left, 20, title)
    image.text(left + width // 2 - 6 * len(x_label), size[1] - 28, x_label)
    image.text(8, 40, y_label)
    for y in _ticks(low, high, 8):
        _, row = place(0, y)
        image.line(left, row, left + width, row, GRID)
        image.text(left - 12 - 12 * len(f"{y:g}"), round(row) - 7, f"{y:g}")
    for x in _ticks(0, x_high, 8):
        column, _ = place(x, low)
        image.line(column, top, column, top + height, GRID)
        image.text(round(column) - 6 * len(f"{x:g}"), top + height + 12, f"{x:g}")
    for index, (name, points) in enumerate(curves.items()):
        rgb = color(index, len(curves))
        for (x0, y0), (x1, y1) in zip(points, points[1:]):
            image.line(*place(x0, y0), *place(x1, y1), rgb, thickness=2.5)
        row = top + 10 + 24 * index
        image.line(left + width + 16, row + 7, left + width + 44, row + 7, rgb, thickness=4)
        image.text(left + width + 54, row, name)
    image.line(left, top, left, top + height, INK)
    image.line(left, top + height, left + width, top + height, INK)
    return image.png()
