#!/usr/bin/env python3
"""./rollcall on machines where this or that is missing. Every tool that it would call is a stub that writes down how.

The machine under test is a folder: a copy of the launcher in it, a cache, and a PATH of stubs.
"""

import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

LAUNCHER = pathlib.Path(__file__).resolve().parents[2] / "rollcall"
REAL_TOOLS = ("awk basename bash cat chmod cmp cut dirname env flock grep head mkdir mktemp nproc readlink rm sed sort tail "
              "touch tr uname").split()


class Machine:
    def __init__(self, folder):
        self.folder = folder
        self.calls = folder / "calls"
        self.calls.touch()
        self.root = folder / "checkout"
        (self.root / "build/release/bin").mkdir(parents=True)
        shutil.copy(LAUNCHER, self.root / "rollcall")
        self.path = folder / "path"
        self.path.mkdir()
        for tool in REAL_TOOLS:
            (self.path / tool).symlink_to(shutil.which(tool))
        # Everything is in place; each test takes something away.
        self.stub(self.path / "dpkg-query", 'shift 3; for p in "$@"; do echo "ii $p"; done')
        self.stub(self.path / "apt-get", "")
        self.stub(self.path / "cargo", 'echo "cargo 1.85.0 (stub)"')
        self.stub(self.path / "cmake", f"touch {self.root}/build/release/build.ninja")
        self.stub(self.path / "ninja", "echo 'ninja: no work to do.'")
        self.stub(self.path / "ctest", "echo '100% tests passed'")
        self.stub(self.root / "build/release/bin/rollcall", 'echo "binary got: $*"')
        for venv in ("venv", "test-venv"):
            self.stub(folder / f"cache/rollcall/{venv}/bin/python", "")
            self.stub(folder / f"cache/rollcall/{venv}/bin/pip", "")

    def stub(self, path, body):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\necho "{path.name} $*" >>{self.calls}\n{body}\n')
        path.chmod(0o755)

    def run(self, *arguments, user=None):
        """The finished process; `user`: a number to become, for what happens without root."""
        environment = {"PATH": str(self.path), "HOME": str(self.folder), "XDG_CACHE_HOME": str(self.folder / "cache")}
        return subprocess.run(["bash", self.root / "rollcall", *arguments], env=environment, cwd="/", user=user,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)

    def called(self, tool):
        return [line for line in self.calls.read_text().splitlines() if line.split()[0] == tool]


class LauncherTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.machine = Machine(pathlib.Path(folder.name))

    def test_second_run_says_nothing_and_only_looks(self):
        self.assertEqual(self.machine.run("train", "x.yaml").returncode, 0)
        self.machine.calls.write_text("")
        again = self.machine.run("train", "x y.yaml", "--set", "a=b")
        self.assertEqual((again.stdout, again.stderr), ("binary got: train x y.yaml --set a=b\n", ""))
        for tool in ("apt-get", "cmake", "python"):
            self.assertEqual(self.machine.called(tool), [])

    def test_a_bundle_is_packed_from_what_was_built(self):
        self.machine.stub(self.machine.root / "deploy/bundle/make_bundle.sh", "echo packed")
        run = self.machine.run("bundle", "out.tar.zst")
        self.assertEqual((run.returncode, run.stdout), (0, "packed\n"), run.stderr)
        (packed,) = self.machine.called("make_bundle.sh")
        self.assertRegex(packed, r"/build/release/bin \S+/torch out\.tar\.zst$")
        self.assertEqual(self.machine.run("bundle").returncode, 1)
        self.assertIn("usage: ./rollcall bundle OUT.tar.zst", self.machine.run("bundle", "out.zip").stderr)

    def test_prometheus_is_fetched_for_a_run_beside_it_once(self):
        fetch = self.machine.root / "deploy/prometheus/fetch.sh"
        self.machine.stub(fetch, 'mkdir -p "$1/usr/bin"; touch "$1/usr/bin/prometheus"; chmod +x "$1/usr/bin/prometheus"')
        for _ in range(2):
            run = self.machine.run("up", "x.yaml")
            self.assertEqual((run.returncode, run.stdout), (0, "binary got: up x.yaml\n"), run.stderr)
        self.assertEqual(len(self.machine.called("fetch.sh")), 1)

    def test_a_fetch_that_fails_leaves_the_word_to_the_program(self):
        self.machine.stub(self.machine.root / "deploy/prometheus/fetch.sh", "exit 1")
        run = self.machine.run("up", "x.yaml")
        self.assertEqual((run.returncode, run.stdout), (0, "binary got: up x.yaml\n"), run.stderr)
        self.assertIn("apt-get install prometheus", run.stderr)

    def test_an_image_has_a_name_and_a_target(self):
        for words in (("image",), ("image", "out.zip"), ("image", "out.tar", "tpu"), ("image", "out.tar", "cpu", "x")):
            run = self.machine.run(*words)
            self.assertEqual(run.returncode, 1)
            self.assertIn("usage: ./rollcall image OUT.tar [cpu|cuda]", run.stderr)

    @unittest.skipUnless(os.geteuid() == 0, "only root installs without sudo")
    def test_installs_the_packages_that_are_missing_and_no_others(self):
        # As dpkg-query does: it fails for a name that it does not know.
        self.machine.stub(self.machine.path / "dpkg-query",
                          'shift 3; for p in "$@"; do case $p in mold|g++) ;; *) echo "ii $p";; esac; done; exit 1')
        run = self.machine.run("build")
        self.assertEqual(run.returncode, 0, run.stderr)
        (install,) = self.machine.called("apt-get")
        self.assertTrue(install.endswith("--no-install-recommends g++ mold"), install)
        self.assertRegex(run.stderr, r"Debian packages, to build: g\+\+ mold … \d+\.\d s")

    @unittest.skipUnless(os.geteuid() == 0, "only root installs without sudo")
    def test_a_machine_that_knows_no_package_gets_all_after_reading_the_lists(self):
        self.machine.stub(self.machine.path / "dpkg-query", "exit 1")
        self.machine.stub(self.machine.path / "apt-get", f"""case "$*" in
          *update*) touch {self.machine.folder}/lists ;;
          *) test -e {self.machine.folder}/lists ;; esac""")
        run = self.machine.run("build")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(len(self.machine.called("apt-get")), 3)
        self.assertIn(" libgrpc++-dev ", self.machine.called("apt-get")[-1])

    @unittest.skipUnless(os.geteuid() == 0, "only root installs without sudo")
    def test_a_failed_installation_shows_why_and_the_command(self):
        self.machine.stub(self.machine.path / "dpkg-query", "exit 1")
        self.machine.stub(self.machine.path / "apt-get", "echo E: no space left on device; exit 100")
        run = self.machine.run("build")
        self.assertEqual(run.returncode, 1)
        self.assertIn("no space left on device", run.stderr)
        self.assertIn("Run by hand: apt-get install -y --no-install-recommends ca-certificates ", run.stderr)

    @unittest.skipUnless(os.geteuid() == 0, "only root can become someone else")
    def test_without_root_and_sudo_it_says_what_root_must_run(self):
        self.machine.stub(self.machine.path / "dpkg-query",
                          'shift 3; for p in "$@"; do [ $p = mold ] || echo "ii $p"; done')
        os.chmod(self.machine.folder, 0o777)
        for path in self.machine.folder.rglob("*"):
            if not path.is_symlink():
                path.chmod(0o777)
        run = self.machine.run("build", user=65534)
        self.assertEqual(run.returncode, 1)
        self.assertIn("Run as root: apt-get install -y --no-install-recommends mold", run.stderr)
        self.machine.stub(self.machine.path / "sudo", "exit 1")
        run = self.machine.run("build", user=65534)
        self.assertIn("Run: sudo apt-get install -y --no-install-recommends mold", run.stderr)
        self.assertEqual(self.machine.called("apt-get"), [])

    def test_wheels_are_installed_once(self):
        self.machine.run("build")
        self.machine.run("build")
        (install,) = self.machine.called("python")
        self.assertIn("--no-deps torch==", install)
        self.assertEqual(self.machine.run("test").returncode, 0)
        self.assertIn("grpcio==", self.machine.called("python")[-1])

    @unittest.skipUnless(os.geteuid() == 0, "only root installs without sudo")
    def test_a_cargo_that_is_too_old_is_replaced(self):
        self.machine.stub(self.machine.path / "cargo", 'echo "cargo 1.66.1"')
        self.machine.stub(self.machine.path / "dpkg-query",
                          'shift 3; for p in "$@"; do [ $p = cargo-web ] || echo "ii $p"; done')
        run = self.machine.run("build")
        (install,) = self.machine.called("apt-get")
        self.assertTrue(install.endswith(" cargo-web"), install)
        # The stub installs nothing, unless this machine has a cargo of its own in /usr/bin.
        if not os.path.exists("/usr/bin/cargo"):
            self.assertEqual(run.returncode, 1)
            self.assertIn("apt-get install -y cargo-web rustc-web", run.stderr)

    def test_slow_tests_run_only_when_asked_for(self):
        for arguments in ((), ("-V",)):
            self.machine.run("test", *arguments)
            self.assertIn(" -LE ^slow$", self.machine.called("ctest")[-1])
        for arguments in (("-L", "slow"), ("-R", "wire"), ("-Lslow",)):
            self.machine.run("test", *arguments)
            self.assertNotIn(" -LE ^slow$", self.machine.called("ctest")[-1])
            self.assertTrue(self.machine.called("ctest")[-1].endswith(" ".join(arguments)))

    def test_a_failed_build_is_the_end(self):
        self.machine.stub(self.machine.path / "ninja", "echo '[1/1] c++ x.cc'; exit 1")
        run = self.machine.run("train", "x.yaml")
        self.assertEqual((run.returncode, run.stdout), (1, ""))
        self.assertIn("the build failed", run.stderr)

    def test_help_needs_nothing(self):
        self.machine.stub(self.machine.path / "dpkg-query", "exit 1")
        run = self.machine.run("--help")
        self.assertEqual(run.returncode, 0)
        self.assertIn("usage: ./rollcall COMMAND", run.stdout)
        self.assertEqual(self.machine.called("apt-get"), [])

    def test_clean_removes_the_build_folder_and_keeps_the_cache(self):
        self.assertEqual(self.machine.run("clean").returncode, 0)
        self.assertFalse((self.machine.root / "build").exists())
        self.assertTrue((self.machine.folder / "cache/rollcall/venv").exists())
        self.assertEqual(self.machine.run("clean", "--everything").returncode, 1)


if __name__ == "__main__":
    unittest.main()
