#!/usr/bin/env python3
"""A bundle, unpacked in an empty folder and run with a clean environment: it finds LibTorch, or says why not, takes its
libraries from itself, and trains."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

SOURCE = pathlib.Path(os.environ["ROLLCALL_SOURCE_DIR"])
BINARIES = pathlib.Path(os.environ["ROLLCALL_BIN_DIR"])
TORCH = pathlib.Path(os.environ["ROLLCALL_TORCH_ROOT"])
MOST_BYTES = 50 << 20


class BundleTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.temporary.name)
        cls.archive = cls.folder / "rollcall.tar.zst"
        subprocess.run([SOURCE / "deploy/bundle/make_bundle.sh", BINARIES, TORCH, cls.archive], check=True)
        cls.home = cls.folder / "a new place"
        cls.home.mkdir()
        subprocess.run(["tar", "xf", cls.archive, "-C", cls.home], check=True)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def run_bundle(self, *arguments, **environment):
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(self.home)} | environment
        return subprocess.run([self.home / "rollcall/rollcall", *arguments], env=environment, cwd=self.home,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)

    def test_is_small(self):
        self.assertLess(self.archive.stat().st_size, MOST_BYTES)

    def test_version_by_the_environment_and_by_python(self):
        for environment in ({"ROLLCALL_TORCH_ROOT": str(TORCH)}, {"PYTHONPATH": str(TORCH.parent)}):
            done = self.run_bundle("--version", **environment)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertRegex(done.stdout, r"^rollcall \d")

    def test_libraries_are_its_own(self):
        for program in sorted((self.home / "rollcall/bin").iterdir()):
            listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True, env={
                "PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": f"{self.home}/rollcall/lib:{TORCH}/lib"}).stdout
            self.assertNotIn("not found", listed, program.name)
            for line in listed.splitlines():
                path = line.partition("=> ")[2].split(" (")[0]
                if not path or path.startswith((str(self.home), str(TORCH))):
                    continue
                # What is left is glibc's.
                self.assertRegex(path, r"/lib(c|m|dl|rt|util|pthread)\.so|/ld-linux", program.name)
            self.assertNotIn("RUNPATH", subprocess.run(["readelf", "-d", program], capture_output=True, text=True,
                                                       check=True).stdout)

    def test_says_what_is_missing(self):
        done = self.run_bundle("--version", ROLLCALL_TORCH_ROOT="/nowhere")
        self.assertEqual(done.returncode, 2)
        self.assertIn("/nowhere holds no lib/libtorch_cpu.so", done.stderr)
        # A python3 without torch.
        tools = self.folder / "tools"
        tools.mkdir(exist_ok=True)
        for tool in ("bash", "cat", "dirname", "readlink", "sed", "env"):
            if not (tools / tool).exists():
                (tools / tool).symlink_to(shutil.which(tool))
        done = self.run_bundle("--version", PATH=str(tools))
        self.assertEqual(done.returncode, 2)
        self.assertIn("pip install torch==", done.stderr)
        other = self.folder / "torch"
        (other / "lib").mkdir(parents=True, exist_ok=True)
        (other / "lib/libtorch_cpu.so").touch()
        (other / "version.py").write_text("__version__ = '1.0.0'\n")
        done = self.run_bundle("--version", ROLLCALL_TORCH_ROOT=str(other))
        self.assertEqual(done.returncode, 2)
        self.assertIn("is torch 1.0.0", done.stderr)

    def test_trains(self):
        done = self.run_bundle("demo", "--json", "--dir", str(self.home / "demo"), "--sft-set", "learner.steps=20",
                               "--rl-set", "learner.steps=3", ROLLCALL_TORCH_ROOT=str(TORCH))
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        result = json.loads(done.stdout.splitlines()[-1])
        self.assertEqual(result["max_logprob_gap"], 0)
        self.assertGreater(result["rollouts"], 0)


if __name__ == "__main__":
    unittest.main()
