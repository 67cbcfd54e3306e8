"""Parquet between Rollcall and pyarrow, both ways: every kind of value, codec and page that datasets have."""

import datetime
import decimal
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "rollcall"
FOLDER = CACHE / "parquet-venv"
PYARROW = "pyarrow==26.0.1"
TOOL = pathlib.Path(os.environ["ROLLCALL_BIN_DIR"]) / "parquet_rows"

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    # Again, in an environment that has it.
    if not (FOLDER / "bin" / "python").exists():
        subprocess.run(["python3", "-m", "venv", FOLDER], check=True)
    subprocess.run([FOLDER / "bin" / "python", "-m", "pip", "install", "--quiet", PYARROW], check=True)
    os.execv(FOLDER / "bin" / "python", [FOLDER / "bin" / "python", *sys.argv])

CHAT = [{"role": "user", "content": "q\n\"é天"}, {"role": "assistant", "content": None}]


def tool(*arguments, rows=None):
    text = None if rows is None else "".join(json.dumps(row) + "\n" for row in rows)
    done = subprocess.run([TOOL, *map(str, arguments)], input=text, capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


class ParquetTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name) / "x.parquet"

    def test_rows_of_datasets_are_read_as_pyarrow_has_them(self):
        rows = [{"prompt": CHAT[:1 + i % 2], "chosen": f"text {i % 7}", "label": i % 3 == 0, "n": i * 10**14,
                 "p": i / 7, "tags": [None, "a"] * (i % 3), "deep": [[i], []], "empty": None,
                 "struct": {"a": {"b": i}, "c": None}} for i in range(2500)]
        rows += [{name: None for name in rows[0]}]
        table = pa.Table.from_pylist(rows)
        for codec in ("none", "snappy", "zstd", "gzip"):
            for options in ({"use_dictionary": False}, {"data_page_version": "2.0"}, {"row_group_size": 100},
                            {"write_page_checksum": True, "version": "1.0"}, {"write_page_index": True}):
                with self.subTest(codec=codec, options=options):
                    pq.write_table(table, self.path, compression=codec, **options)
                    self.assertEqual(tool("read", self.path), table.to_pylist())

    def test_every_type_has_a_value_in_json(self):
        columns = {
            "i8": (pa.array([-1], pa.int8()), -1), "u8": (pa.array([255], pa.uint8()), 255),
            "i16": (pa.array([-300], pa.int16()), -300), "u32": (pa.array([4294967295], pa.uint32()), 4294967295),
            "u64": (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1), "i64": (pa.array([-2**63], pa.int64()), -2**63),
            "f32": (pa.array([0.5], pa.float32()), 0.5), "nan": (pa.array([float("nan")]), None),
            "large": (pa.array(["x"], pa.large_string()), "x"), "bytes": (pa.array([b"plain"]), "plain"),
            "image": (pa.array([b"\xff\xd8"]), None), "dictionary": (pa.array(["a"]).dictionary_encode(), "a"),
            "large_list": (pa.array([["x"]], pa.large_list(pa.string())), ["x"]),
            "map": (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), {"k": 1}),
            "decimal": (pa.array([decimal.Decimal("12.34")], pa.decimal128(10, 2)), 12.34),
            "wide": (pa.array([decimal.Decimal("1234567890123456789.5")], pa.decimal128(30, 1)),
                     "1234567890123456789.5"),
            "date": (pa.array([datetime.date(2024, 2, 29)]), "2024-02-29"),
        }
        for name, (array, expected) in columns.items():
            with self.subTest(name):
                pq.write_table(pa.table({name: array}), self.path)
                self.assertEqual(tool("read", self.path), [{name: expected}])
        pq.write_table(pa.table({"t": pa.array([datetime.datetime(2024, 2, 29, 12)], pa.timestamp("us"))}), self.path)
        self.assertIn("2024-02-29 12:00:00", tool("read", self.path)[0]["t"])

    def test_pyarrow_reads_what_is_written(self):
        rows = [{"prompt": CHAT, "n": i, "p": i / 3, "ok": i % 2 == 0, "tags": ["a"] * i, "none": None,
                 "s": {"a": [i], "b": None if i else "x"}} for i in range(8)]
        for codec in ("none", "snappy", "zstd", "gzip"):
            with self.subTest(codec):
                tool("write", self.path, codec, rows=rows)
                self.assertEqual(pq.read_table(self.path).to_pylist(), rows)
                self.assertEqual(pq.ParquetFile(self.path).num_row_groups, 3)

    def test_other_codecs_are_refused_by_name(self):
        pq.write_table(pa.table({"a": ["x" * 100]}), self.path, compression="lz4")
        with self.assertRaisesRegex(AssertionError, "(?i)lz4.*compressions are none, snappy, zstd and gzip"):
            tool("read", self.path)


if __name__ == "__main__":
    unittest.main(verbosity=2)
