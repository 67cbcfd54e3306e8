"""A live scrape of every service of a run is what docs/metrics.md says, and small."""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import unittest

import metrics_doc
import small_run
from harness import await_condition, contract, scrape, start_service

learner, learner_grpc = contract("learner")

MAX_SERIES = 500
MAX_SCRAPE_SECONDS = 0.02


CACHED = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "rollcall/prometheus/usr/bin"
PROMTOOL = shutil.which("promtool") or shutil.which("promtool", path=CACHED)


def families(text):
    """{name: (type, help)}"""
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE))
    return {name: (kind, helps.get(name, "")) for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)}


class ScrapeTest(unittest.TestCase):
    def test_the_page_is_that_of_a_run(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="rollcall_scrape_")))
        small_run.write(folder)
        addresses = dict.fromkeys(("generator", "reward", "reference"), "127.0.0.1:1")
        metrics = {}
        for name in (*addresses, "learner"):
            process, address, metrics[name] = start_service(name, small_run.config(folder, **addresses), folder)
            self.enterContext(process)
            if name != "learner":
                addresses[name] = address
        await_condition(lambda: re.search(r"^rollcall_learner_step ([3-9]|\d\d)", scrape(metrics["learner"]),
                                          re.MULTILINE), "no step was taken")

        documented = {name: (kind, text) for name, (kind, _, text) in metrics_doc.registrations().items()}
        owners = {name: owner for name, (_, owner, _) in metrics_doc.registrations().items()}
        seen = set()
        for service, address in metrics.items():
            text = scrape(address)
            for name, entry in families(text).items():
                if name.startswith("exposer_"):
                    continue  # of the Prometheus library
                self.assertEqual(entry, documented[name], name)
                self.assertIn(owners[name], ("every service", service))
                seen.add(name)
            samples = [line for line in text.splitlines() if not line.startswith("#")]
            self.assertLess(len(samples), MAX_SERIES, service)
            self.assertIn(f'service="{service}"', text)
            best = min(self.seconds_of_a_scrape(address) for _ in range(5))
            self.assertLess(best, MAX_SCRAPE_SECONDS, service)
            if PROMTOOL:  # else ./rollcall test -L slow fetches it
                own = "".join(line for line in text.splitlines(keepends=True) if "exposer_" not in line)
                checked = subprocess.run([PROMTOOL, "check", "metrics"], input=own, capture_output=True, text=True)
                self.assertEqual((checked.returncode, checked.stderr), (0, ""), service)
        # What shows only once something went wrong, or with a certificate.
        rare = {"rollcall_learner_call_faults_total", "rollcall_learner_groups_dropped",
                "rollcall_certificate_expiry_timestamp_seconds", "rollcall_rpc_denied_total"}
        absent = {name for name, owner in owners.items() if owner == "reward model"}  # none in this run
        self.assertEqual(set(documented) - seen - rare - absent, set())

    @staticmethod
    def seconds_of_a_scrape(address):
        begin = time.monotonic()
        scrape(address)
        return time.monotonic() - begin


if __name__ == "__main__":
    unittest.main(verbosity=2)
