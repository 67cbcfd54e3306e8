"""The CPU image: made by buildah from deploy/docker/Containerfile, unpacked, and run under bubblewrap as a cluster would run
it: read-only root, a user that is nobody, nothing of this machine but the kernel."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest

import small_run

ROOT = pathlib.Path(os.environ["ROLLCALL_SOURCE_DIR"])
BUILD = pathlib.Path(os.environ["ROLLCALL_BIN_DIR"]).parent
MAX_BYTES = 900_000_000
TOOLS = ("buildah", "mmdebstrap", "bwrap")


def why_not():
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0:
        return "needs root"
    return f"no {', '.join(absent)}: apt-get install buildah mmdebstrap bubblewrap" if absent else ""


def unpack(archive, folder):
    """The root file system of an OCI archive in `folder`, and its configuration."""
    blobs = folder / "oci"
    with tarfile.open(archive) as tar:
        tar.extractall(blobs)
    blob = lambda digest: blobs / "blobs" / digest.replace(":", "/")  # noqa: E731
    manifest = json.loads(blob(json.loads((blobs / "index.json").read_text())["manifests"][0]["digest"]).read_text())
    root = folder / "root"
    root.mkdir()
    for layer in manifest["layers"]:
        # What a layer takes away is named first.
        with tarfile.open(blob(layer["digest"])) as tar:
            for entry in tar.getmembers():
                path = pathlib.Path(entry.name)
                if path.name == ".wh..wh..opq":
                    for old in (root / path.parent).iterdir():
                        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
                elif path.name.startswith(".wh."):
                    old = root / path.parent / path.name.removeprefix(".wh.")
                    shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink(missing_ok=True)
        subprocess.run(["tar", "-x", "--numeric-owner", "-p", "--exclude=.wh.*", "-f", blob(layer["digest"]), "-C", root],
                       check=True)
    config = json.loads(blob(manifest["config"]["digest"]).read_text())["config"]
    shutil.rmtree(blobs)
    return root, config


class ImageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="rollcall_image_")))
        # The build takes the packages that lie there.
        begin = time.monotonic()
        subprocess.run(["cpack", "-B", BUILD / "packages"], check=True, cwd=BUILD, stdout=subprocess.DEVNULL)
        shutil.rmtree(BUILD / "packages/_CPack_Packages", ignore_errors=True)
        packed = time.monotonic()
        subprocess.run([ROOT / "deploy/docker/build_image.sh", ROOT, "cpu", cls.folder / "cpu.tar"], check=True,
                       stdout=sys.stderr)
        built = time.monotonic()
        cls.root, cls.config = unpack(cls.folder / "cpu.tar", cls.folder)
        cls.bytes = int(subprocess.run(["du", "-s", "--block-size=1", "--apparent-size", cls.root], check=True,
                                       capture_output=True, text=True).stdout.split()[0])
        print(f"packages {packed - begin:.0f} s, image {built - packed:.0f} s, {cls.bytes / 1e6:.0f} MB unpacked, "
              f"{(cls.folder / 'cpu.tar').stat().st_size / 1e6:.0f} MB as an archive")

    def sandbox(self, *command, writable=(), readable=(), **options):
        user, group = self.config["User"].split(":")
        words = ["bwrap", "--unshare-all", "--die-with-parent", "--clearenv", "--uid", user, "--gid", group,
                 "--cap-drop", "ALL", "--ro-bind", self.root, "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
                 "--chdir", self.config["WorkingDir"]]
        for variable in self.config["Env"]:
            words += ["--setenv", *variable.split("=", 1)]
        for source, target in readable:
            words += ["--ro-bind", source, target]
        for source, target in writable:
            words += ["--bind", source, target]
        return subprocess.run([str(word) for word in (*words, *command)], capture_output=True, text=True, **options)

    def test_it_is_small(self):
        self.assertLess(self.bytes, MAX_BYTES)

    def test_its_configuration(self):
        self.assertEqual(self.config["User"], "10001:10001")
        self.assertEqual(self.config["Entrypoint"], ["rollcall"])
        self.assertIn("OMP_WAIT_POLICY=passive", self.config["Env"])

    def test_it_has_the_programs_and_no_compiler(self):
        names = {path.name for path in (self.root / "usr/bin").iterdir()}
        self.assertGreaterEqual(names, {"rollcall", "rollcall-generator", "rollcall-learner", "rollcall-reference",
                                        "rollcall-reward", "rollcall-reward-model", "rollcall-model"})
        self.assertEqual(names & {"gcc", "cc", "python3", "cargo", "curl", "wget"}, set())
        self.assertEqual(list((self.root / "var/lib/apt/lists").iterdir()), [])

    def test_nobody_gains_rights_in_it(self):
        self.assertIn("rollcall:x:10001:10001:", (self.root / "etc/passwd").read_text())
        done = self.sandbox("sh", "-c", "id -u; echo x > /usr/x || echo read-only")
        self.assertEqual(done.stdout, "10001\nread-only\n", done.stderr)

    def test_bill_of_materials_and_licences(self):
        bill = json.loads((self.root / "usr/share/doc/rollcall/sbom.cdx.json").read_text())
        self.assertEqual(bill["bomFormat"], "CycloneDX")
        self.assertEqual(bill["metadata"]["component"]["version"], "0.1.0")
        purls = [component["purl"] for component in bill["components"]]
        self.assertEqual(len(purls), len(set(purls)))
        for start in ("pkg:deb/debian/libc6@", "pkg:deb/debian/libgrpc++1.51@", "pkg:cargo/tokenizers@0.22.2",
                      "pkg:pypi/torch@2.11.0"):
            self.assertTrue(any(purl.startswith(start) for purl in purls), start)
        # Every package of Debian that is listed has its licence here, and none is missing from the list.
        listed = {purl.removeprefix("pkg:deb/debian/").split("@")[0] for purl in purls if "arch=" in purl}
        installed = {line.removeprefix("Package: ") for line in (self.root / "var/lib/dpkg/status").read_text().splitlines()
                     if line.startswith("Package: ")}
        self.assertEqual(installed - listed, {"rollcall", "rollcall-libtorch"})
        for package in installed:
            self.assertTrue((self.root / "usr/share/doc" / package / "copyright").exists(), package)

    def test_a_run_of_two_steps_completes(self):
        models, runs = self.folder / "models", self.folder / "runs"
        small_run.write(models)
        runs.mkdir()
        (models / "run.yaml").write_text(small_run.config("/models", steps=2))
        done = self.sandbox(*self.config["Entrypoint"], "train", "/models/run.yaml", "--set", "output_dir=/runs",
                            readable=[(models, "/models")], writable=[(runs, "/runs")], timeout=300)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        lines = [json.loads(line) for line in (runs / "run/metrics.jsonl").read_text().splitlines()]
        self.assertEqual([line["step"] for line in lines], [1, 2])
        self.assertTrue((runs / "run/final/model.safetensors").is_file())

    def test_without_cuda_it_says_so(self):
        models, runs = self.folder / "models-cuda", self.folder / "runs-cuda"
        small_run.write(models)
        runs.mkdir()
        (models / "run.yaml").write_text(small_run.config("/models", steps=2))
        done = self.sandbox("rollcall-learner", "--config", "/models/run.yaml", "--set", "output_dir=/runs", "--set",
                            "model.device=cuda", readable=[(models, "/models")], writable=[(runs, "/runs")], timeout=60)
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stderr, "(?i)cuda")


if __name__ == "__main__":
    if why := why_not():
        print(f"skipped: {why}")
        sys.exit(77)
    unittest.main(verbosity=2)
