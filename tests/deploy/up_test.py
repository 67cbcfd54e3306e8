"""`rollcall up`: a run with Prometheus beside it; the queries that it prints give data, and both end together."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.parse
import urllib.request

import small_run

BIN = pathlib.Path(os.environ["ROLLCALL_BIN_DIR"])
CACHED = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "rollcall/prometheus/usr/bin"
PROMETHEUS = shutil.which("prometheus") or shutil.which("prometheus", path=CACHED)
DEADLINE_S = 60


def query(address, expression):
    """What Prometheus answers: a list of series."""
    url = f"http://{address}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
        return json.load(answer)["data"]["result"]


class Up:
    """`rollcall up` as a child; `address` and `queries` are what it printed."""

    def __init__(self, folder, *flags, **config):
        small_run.write(folder)
        (folder / "up.yaml").write_text(small_run.config(folder, **config))
        self._child = subprocess.Popen([BIN / "rollcall", "up", folder / "up.yaml", *flags], stdout=subprocess.PIPE,
                                       text=True)
        lines = [self._child.stdout.readline() for _ in range(4)]
        self.address = re.fullmatch(r"Prometheus: http://(\S+)\n", lines[0])[1]
        self.queries = [line.rstrip("\n")[39:] for line in lines[1:]]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._child.poll() is None:
            self.interrupt()
        self._child.stdout.close()

    def interrupt(self):
        """The exit code."""
        self._child.send_signal(signal.SIGINT)
        self._child.communicate(timeout=DEADLINE_S)
        return self._child.returncode

    def await_data(self, expressions, seconds=DEADLINE_S):
        """Those without data at the end."""
        missing, end = set(expressions), time.monotonic() + seconds
        while missing and time.monotonic() < end:
            missing = {expression for expression in missing if not query(self.address, expression)}
            time.sleep(0.2 if missing else 0)
        return missing


class UpTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="rollcall_up_")))

    def test_without_prometheus_it_says_how_to_get_it(self):
        small_run.write(self.folder)
        (self.folder / "up.yaml").write_text(small_run.config(self.folder))
        environment = {**os.environ, "PATH": "/nowhere", "HOME": "/nowhere", "XDG_CACHE_HOME": "/nowhere"}
        environment.pop("ROLLCALL_PROMETHEUS", None)
        done = subprocess.run([BIN / "rollcall", "up", self.folder / "up.yaml"], env=environment, capture_output=True,
                              text=True)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("apt-get install prometheus", done.stderr)
        self.assertFalse((self.folder / "run").exists())

    @unittest.skipUnless(PROMETHEUS, "no prometheus: ./rollcall test -L slow fetches it")
    def test_its_queries_give_data_and_an_interrupt_ends_both(self):
        with Up(self.folder, "--prometheus", PROMETHEUS, "--scrape-seconds", "1") as up:
            self.assertEqual(len(up.queries), 3)
            self.assertEqual(up.await_data(up.queries), set())
            self.assertEqual({series["metric"]["service"] for series in query(up.address, "up == 1")},
                             {"learner", "generator", "reward", "reference"})
            self.assertEqual(up.interrupt(), 0)
            with self.assertRaises(OSError):
                query(up.address, "up")
        # It had the time to write what it knew.
        self.assertTrue((self.folder / "run/prometheus/data").is_dir())
        self.assertFalse((self.folder / "run/prometheus/data/lock").exists())

    @unittest.skipUnless(PROMETHEUS, "no prometheus: ./rollcall test -L slow fetches it")
    def test_an_address_that_is_taken_is_said(self):
        with Up(self.folder, "--prometheus", PROMETHEUS, "--scrape-seconds", "1") as up:
            done = subprocess.run([BIN / "rollcall", "up", self.folder / "up.yaml", "--listen", up.address,
                                   "--prometheus", PROMETHEUS, "--set", "name=other"], capture_output=True, text=True)
            self.assertEqual(done.returncode, 1)
            self.assertIn(f"{up.address} is taken", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
