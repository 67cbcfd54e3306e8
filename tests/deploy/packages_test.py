"""What `cmake --install` and CPack make: the tree runs wherever it is put, and the Debian packages are as they should be."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

BUILD = pathlib.Path(os.environ["ROLLCALL_BIN_DIR"]).parent
PROGRAMS = {"rollcall", "rollcall-generator", "rollcall-learner", "rollcall-model", "rollcall-reference",
            "rollcall-reward", "rollcall-reward-model"}
# What a run of nothing but the system has.
CLEAN = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}")
    return done.stdout


class Case(unittest.TestCase):
    def check_programs(self, bin_folder):
        """All are there, tell their version without any help, and have the libraries beside them."""
        self.assertEqual({path.name for path in bin_folder.iterdir()}, PROGRAMS)
        for name in PROGRAMS:
            self.assertRegex(run(bin_folder / name, "--version", env=CLEAN), rf"^(rollcall|{name}) 0\.1\.0\b")
            for line in run("ldd", bin_folder / name, env=CLEAN).splitlines():
                self.assertNotIn("not found", line)
                for path in re.findall(r"=> (/\S+)", line):
                    place = pathlib.Path(path).resolve()
                    self.assertTrue(place.is_relative_to("/usr/lib") or place.is_relative_to(bin_folder.parent), line)

    def check_documents(self, share):
        for name, least in (("rollcall", 50), ("rollcall-libtorch", 3)):
            folder = share / "doc" / name
            self.assertIn("icence", (folder / "copyright").read_text())
            components = json.loads((folder / "components.json").read_text())
            self.assertGreaterEqual(len(components), least)
            for component in components:
                self.assertRegex(component["purl"], r"^pkg:(cargo|pypi|deb)/.+@.+")
        self.assertTrue((share / "doc/rollcall/licenses/tokenizers-0.22.2/LICENSE").is_file())
        self.assertTrue((share / "doc/rollcall-libtorch/licenses/torch-2.11.0/LICENSE").is_file())
        self.assertTrue((share / "rollcall/helm/rollcall/Chart.yaml").is_file())
        self.assertTrue((share / "rollcall/helm/rollcall/files/rules/alerts.yml").is_file())


class InstallTest(Case):
    def test_the_tree_runs_wherever_it_is_put(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="rollcall_install_")))
        for component in ("programs", "libtorch"):
            run("cmake", "--install", BUILD, "--prefix", folder / "there", "--component", component, "--strip")
        (folder / "there").rename(folder / "elsewhere")
        self.check_programs(folder / "elsewhere/bin")
        self.check_documents(folder / "elsewhere/share")


class PackagesTest(Case):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="rollcall_packages_")))
        run("cpack", "-B", cls.folder, cwd=BUILD)
        shutil.rmtree(cls.folder / "_CPack_Packages", ignore_errors=True)
        cls.packages = {name: cls.folder / f"{name}_0.1.0_amd64.deb" for name in ("rollcall", "rollcall-libtorch")}

    def field(self, name, field):
        return run("dpkg-deb", "--field", self.packages[name], field).strip()

    def depends(self, name):
        return {word.split(" ")[0]: word for word in self.field(name, "Depends").split(", ")}

    def test_there_are_two(self):
        self.assertEqual({path.name for path in self.folder.glob("*.deb")}, {p.name for p in self.packages.values()})

    def test_control_fields(self):
        for name in self.packages:
            self.assertEqual(self.field(name, "Package"), name)
            self.assertEqual(self.field(name, "Version"), "0.1.0")
            self.assertEqual(self.field(name, "Architecture"), "amd64")
            self.assertRegex(self.field(name, "Maintainer"), r"^.+ <.+@.+>$")
            description = self.field(name, "Description").splitlines()
            self.assertLess(len(description[0]), 80)
            self.assertGreater(len(description), 1)
            self.assertTrue(all(line.startswith(" ") for line in description[1:]), description)

    def test_dependencies_are_what_the_programs_load(self):
        programs = self.depends("rollcall")
        self.assertEqual(programs.pop("rollcall-libtorch"), "rollcall-libtorch (= 0.1.0)")
        for name in ("libc6", "libgrpc++1.51", "libprotobuf32", "libssl3", "libstdc++6", "libyaml-cpp0.7", "zlib1g"):
            self.assertIn(name, programs)
        # Nothing that only a build needs, nothing of Python, CUDA or a desktop.
        for name in programs:
            self.assertNotRegex(name, r"-dev$|python|cuda|nvidia|x11|gtk")
        self.assertLess(len(programs), 25)
        self.assertEqual(set(self.depends("rollcall-libtorch")) - {"libc6", "libgcc-s1", "libstdc++6", "libgomp1"}, set())

    def test_contents(self):
        for name in self.packages:
            for line in run("dpkg-deb", "--contents", self.packages[name]).splitlines():
                mode, owner, path = line.split()[0], line.split()[1], line.split()[5]
                self.assertEqual(owner, "root/root", line)
                if mode[0] != "l":
                    self.assertNotRegex(mode, r"^.....w|^........w|[sS]", line)
                self.assertRegex(path, r"^\./($|usr/)", line)
                self.assertNotRegex(path, r"__pycache__|\.pyc$|_test|/(local|tmp|root|home)/", line)

    def test_unpacked_the_programs_run(self):
        root = self.folder / "root"
        for package in self.packages.values():
            run("dpkg", "-x", package, root)
        self.check_programs(root / "usr/bin")
        self.check_documents(root / "usr/share")
        self.assertTrue(all(not (path.stat().st_mode & 0o111) for path in (root / "usr/share").rglob("*")
                            if path.is_file() and path.suffix not in (".sh",)))


if __name__ == "__main__":
    unittest.main(verbosity=2)
