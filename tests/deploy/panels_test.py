"""Every query of every panel, asked of a real Prometheus that scrapes a run of about a minute: it parses, and has data
wherever a healthy run gives some. No alert fires, no service has 500 series, and a scrape takes under 20 ms."""

import pathlib
import sys
import tempfile
import time
import unittest

import up_test
from up_test import PROMETHEUS, Up, query

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy/grafana"))
import dashboards  # noqa: E402

RUN_SECONDS = 60
# Figures of what a healthy run of one machine, without held-out prompts or verifiers of its own, does not have.
ABSENT = ("rollcall_certificate_expiry", "rollcall_connections", "rollcall_rpc_denied", 'code!="OK"',
          "rollcall_learner_groups_dropped", "rollcall_learner_call_faults", 'name="eval/', 'name=~"reward/[^/]+/.+"',
          "rollcall_reward_verifier_failed", "rollcall_reward_verifier_repeated", "rollcall_reward_verifier_invalid",
          "rollcall:verifier_faults")


@unittest.skipUnless(PROMETHEUS, "no prometheus: ./rollcall test -L slow fetches it")
class PanelsTest(unittest.TestCase):
    def test_every_query_has_data(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="rollcall_panels_")))
        with Up(folder, "--prometheus", PROMETHEUS, "--set", "learner.checkpoint.every_steps=20") as up:
            time.sleep(RUN_SECONDS)
            expressions = [(title, expression.replace("$namespace", ".*"))
                           for _, panels in dashboards.DASHBOARDS.values()
                           for title, _, queries in panels for expression, _ in queries]
            self.assertGreater(len(expressions), 80)
            missing = up.await_data([e for _, e in expressions if not any(word in e for word in ABSENT)], seconds=30)
            self.assertEqual(missing, set())
            for _, expression in expressions:
                query(up.address, expression)  # a fault of syntax is an HTTP error
            for series in query(up.address, "scrape_samples_scraped"):
                self.assertLess(float(series["value"][1]), 500, series["metric"])
            for series in query(up.address, "min_over_time(scrape_duration_seconds[1m])"):
                self.assertLess(float(series["value"][1]), 0.02, series["metric"])
            firing = [series["metric"]["alertname"] for series in query(up.address, 'ALERTS{alertstate="firing"}')]
            self.assertEqual(firing, [])
            self.assertEqual(up.interrupt(), 0)


del up_test  # its own tests are not this program's
if __name__ == "__main__":
    unittest.main(verbosity=2)
