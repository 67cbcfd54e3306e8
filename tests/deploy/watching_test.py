"""Metrics, rules, alerts, dashboards and run-books agree with each other and with the code. Standard library alone."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

import metrics_doc

ROOT = metrics_doc.ROOT
RULES = ROOT / "deploy/prometheus/rules"
TESTS = ROOT / "deploy/prometheus/tests/alerts_test.yml"
DASHBOARDS = ROOT / "deploy/grafana"
RUNBOOKS = ROOT / "docs/runbooks"

sys.path.insert(0, str(DASHBOARDS))
import dashboards  # noqa: E402


def series(expression):
    """Names of metrics that a PromQL expression reads."""
    return set(re.findall(r"\brollcall[:_][a-zA-Z0-9_:]+", expression))


def known_series():
    known = set()
    for name, kind in metrics_doc.documented().items():
        known |= {name + suffix for suffix in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
    return known | set(re.findall(r"- record: (\S+)", (RULES / "recording.yml").read_text()))


class MetricsPageTest(unittest.TestCase):
    def test_the_page_is_that_of_the_code(self):
        self.assertEqual(metrics_doc.PAGE.read_text(), metrics_doc.page(),
                         "run python3 tests/deploy/metrics_doc.py --write")

    def test_names_follow_the_conventions(self):
        entries = metrics_doc.registrations()
        self.assertGreater(len(entries), 50)
        for name, (kind, _, text) in entries.items():
            self.assertEqual(name.endswith("_total"), kind == "counter", name)
            self.assertNotRegex(name, r"(_ms|_millis|_micros|_minutes|_kb|_mb|_percent)(_|$)", name)
            self.assertTrue(text.endswith("."), f"{name}: {text}")
            if kind == "histogram":
                self.assertRegex(name, r"_(seconds|bytes|tokens|steps)$")


class RulesTest(unittest.TestCase):
    def setUp(self):
        text = (RULES / "alerts.yml").read_text()
        # One alert each; its expression ends where `for` or `labels` begins.
        self.alerts = {block.split("\n", 1)[0].strip(): block for block in text.split("- alert: ")[1:]}

    def test_expressions_read_metrics_that_exist(self):
        known = known_series()
        for path in RULES.glob("*.yml"):
            for name in series(re.sub(r"- record: \S+", "", path.read_text())) - {"rollcall_learner"}:
                self.assertIn(name, known, path.name)

    def test_each_alert_has_a_run_book_and_each_run_book_an_alert(self):
        pages = {path.stem for path in RUNBOOKS.glob("Rollcall*.md")}
        self.assertEqual(pages, set(self.alerts))
        for name, block in self.alerts.items():
            self.assertIn(f"runbook_url: docs/runbooks/{name}.md", block)
            page = (RUNBOOKS / f"{name}.md").read_text()
            self.assertIn("## Look", page)
            self.assertIn("## Do", page)

    def test_the_table_of_run_books_has_their_first_sentences(self):
        rows = dict(re.findall(r"^\| \[(\w+)\]\(\w+\.md\) \| (.+) \|$", (RUNBOOKS / "README.md").read_text(), re.MULTILINE))
        self.assertEqual(set(rows), set(self.alerts))
        for name, sentence in rows.items():
            paragraph = (RUNBOOKS / f"{name}.md").read_text().split("\n\n")[1].replace("\n", " ")
            self.assertEqual(sentence, re.match(r".+?[.](?=\s|$)", paragraph)[0])

    def test_each_alert_has_a_firing_and_a_silent_test(self):
        names = re.findall(r"- name: (\w+) (fires|silent)", TESTS.read_text())
        self.assertEqual(sorted(names), sorted((alert, kind) for alert in self.alerts for kind in ("fires", "silent")))

    def test_run_books_name_what_exists(self):
        known = set(metrics_doc.documented())
        for page in RUNBOOKS.glob("*.md"):
            for name in series(page.read_text()):
                self.assertTrue(any(name == k or k.startswith(name) for k in known), f"{page.name}: {name}")

    def test_promtool_agrees(self):
        cached = pathlib.Path.home() / ".cache/rollcall/prometheus/usr/bin/promtool"
        promtool = shutil.which("promtool") or (cached if cached.exists() else None)
        if promtool is None:
            self.skipTest("no promtool: ./rollcall test -L slow fetches it")
        for arguments in (("check", "rules", *map(str, RULES.glob("*.yml"))),
                          ("check", "config", str(ROOT / "deploy/prometheus/prometheus.yml")),
                          ("test", "rules", str(TESTS))):
            done = subprocess.run([promtool, *arguments], capture_output=True, text=True, cwd=TESTS.parent)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class DashboardsTest(unittest.TestCase):
    def test_the_files_are_those_of_the_code(self):
        files = {path.name: path.read_text() for path in (DASHBOARDS / "dashboards").glob("*.json")}
        self.assertEqual(files, dashboards.files(), "run python3 deploy/grafana/dashboards.py")
        self.assertEqual(len(files), 4)

    def test_every_panel_reads_metrics_that_exist(self):
        known = known_series()
        for name, text in dashboards.files().items():
            panels = json.loads(text)["panels"]
            self.assertGreater(len(panels), 8)
            for panel in panels:
                for target in panel["targets"]:
                    for metric in series(target["expr"]):
                        self.assertIn(metric, known, f"{name}: {panel['title']}")

    def test_panels_lie_side_by_side(self):
        for text in dashboards.files().values():
            places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in json.loads(text)["panels"]]
            self.assertEqual(len(places), len(set(places)))


if __name__ == "__main__":
    unittest.main(verbosity=2)
