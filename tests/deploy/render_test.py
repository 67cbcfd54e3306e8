"""The committed manifests are what the chart gives: rendered again by Helm's own engine, built from its Go module.

python3 tests/deploy/render_test.py --write renders them anew. Needs Go; fetches promtool too, for watching_test.py.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import unittest

from manifests import EXAMPLES, RENDERED, Manifests

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/rollcall"
VALUES = ROOT / "deploy/helm/examples"
OVERLAYS = ROOT / "deploy/kustomize/overlays"
BASE = ROOT / "deploy/kustomize/base/manifests.yaml"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "rollcall"
GO = shutil.which("go") or "/usr/local/go/bin/go"


def build():
    """The path of the renderer."""
    binary = CACHE / "helm-render"
    environment = {**os.environ, "GOPATH": str(CACHE / "go"), "GOCACHE": str(CACHE / "go-build")}
    subprocess.run([GO, "build", "-p", "2", "-o", binary, "."], check=True, env=environment,
                   cwd=ROOT / "tests/deploy/render")
    return binary


def render(binary, example, version="1.31.0"):
    if example.startswith("kustomize-"):
        command = [binary, "kustomize", OVERLAYS / example.removeprefix("kustomize-")]
    else:
        command = [binary, CHART, "rollcall", "rollcall", version, VALUES / f"{example}.yaml"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return done.stdout


def fetch_promtool():
    """For the fast tests: Debian's prometheus, unpacked in the cache."""
    if not shutil.which("promtool"):
        subprocess.run([ROOT / "deploy/prometheus/fetch.sh", CACHE / "prometheus"], check=True)


class RenderTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not pathlib.Path(GO).exists():
            raise unittest.SkipTest("no Go")
        cls.binary = build()

    def test_the_committed_manifests_are_the_charts(self):
        for example in EXAMPLES:
            self.assertEqual((RENDERED / f"{example}.yaml").read_text(), render(self.binary, example),
                             f"{example}: run python3 tests/deploy/render_test.py --write")

    def test_kustomize_starts_from_the_same(self):
        self.assertEqual(BASE.read_text(), render(self.binary, "cpu-demo"))

    def test_an_overlay_changes_what_it_says_and_nothing_else(self):
        """The CPU overlay is the chart's output but for the namespace object, the tag and the test pod."""
        chart = {(d["kind"], d["metadata"]["name"]): d for d in Manifests.of("cpu-demo").all}
        overlay = {(d["kind"], d["metadata"]["name"]): d for d in Manifests.of("kustomize-cpu-demo").all}
        self.assertEqual(set(overlay) ^ set(chart), {("Namespace", "rollcall"), ("Pod", "rollcall-test")})
        for key in set(overlay) & set(chart):
            self.assertEqual(overlay[key]["metadata"].pop("namespace"), "rollcall")
            self.assertEqual(overlay[key], chart[key], key)

    def test_defaults_render_for_the_oldest_and_newest_kubernetes(self):
        for version in ("1.28.0", "1.34.0"):
            done = subprocess.run([self.binary, CHART, "r", "n", version], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_values_that_make_no_sense_are_refused(self):
        for values in ("generator: {replicas: none}", "tls: {enable: true}", "verifiers: {Bad_Name: {image: x, port: 1}}",
                       "verifiers: {a: {image: x}}", "autoscaling: {kind: magic}", "unknown: 1"):
            file = CACHE / "bad-values.yaml"
            file.write_text(values)
            done = subprocess.run([self.binary, CHART, "r", "n", "1.31.0", file], capture_output=True, text=True)
            self.assertNotEqual(done.returncode, 0, values)

    def test_promtool_is_there_for_the_fast_tests(self):
        fetch_promtool()


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        RENDERED.mkdir(exist_ok=True)
        renderer = build()
        for name in EXAMPLES:  # the base comes before what is built on it
            (RENDERED / f"{name}.yaml").write_text(render(renderer, name))
            if name == "cpu-demo":
                shutil.copy(RENDERED / "cpu-demo.yaml", BASE)
    else:
        unittest.main(verbosity=2)
