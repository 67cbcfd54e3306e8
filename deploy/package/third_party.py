"""Licences and a list of what Rollcall's packages hold of others: crates, wheels, headers of Debian.

third_party.py --crate FOLDER --cargo CARGO --wheels SITE-PACKAGES --out FOLDER writes
  OUT/programs/{copyright,components.json,licenses/…}    for the package of the programs
  OUT/libtorch/{copyright,components.json,licenses/…}    for that of LibTorch
components.json is a list of CycloneDX components; deploy/docker/sbom.py puts them beside Debian's packages.
"""

import argparse
import email.parser
import json
import pathlib
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Headers without a library: they are in the programs, and no dependency tells.
HEADER_PACKAGES = ("libcli11-dev", "nlohmann-json3-dev")
WHEELS = ("torch", "nvidia_cuda_runtime", "nvidia_cuda_cupti")
LICENSE_NAMES = ("license", "licence", "copying", "unlicense", "notice", "copyright")
PLATFORM = "x86_64-unknown-linux-gnu"


def component(kind, name, version, purl, license_name):
    found = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
             "properties": [{"name": "rollcall:source", "value": kind}]}
    if license_name:
        found["licenses"] = [{"expression": license_name}] if " " in license_name else [{"license": {"name": license_name}}]
    return found


def copy_licenses(source, target):
    """Every file of `source` whose name says that it is a licence; whether there was one."""
    files = [path for path in sorted(source.iterdir())
             if path.is_file() and path.name.lower().startswith(LICENSE_NAMES)]
    for path in files:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / path.name)
    return bool(files)


def crates(crate, cargo):
    """The packages of cargo's lock file that are built for this platform, but for the crate itself."""
    done = subprocess.run([cargo, "metadata", "--format-version", "1", "--locked", "--filter-platform", PLATFORM,
                           "--manifest-path", crate / "Cargo.toml"], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"third_party.py: cargo metadata: {done.stderr}")
    metadata = json.loads(done.stdout)
    built = {node["id"] for node in metadata["resolve"]["nodes"]}
    return [package for package in metadata["packages"] if package["source"] and package["id"] in built]


def wheel_metadata(site_packages, name):
    folder, = site_packages.glob(f"{name}-*.dist-info")
    return folder, email.parser.Parser().parsestr((folder / "METADATA").read_text())


def header_components():
    for package in HEADER_PACKAGES:
        done = subprocess.run(["dpkg-query", "-W", "-f", "${Version} ${Architecture}", package],
                              capture_output=True, text=True)
        if done.returncode == 0:  # elsewhere than on Debian nothing is known of them
            version, architecture = done.stdout.split()
            yield component("header", package, version, f"pkg:deb/debian/{package}@{version}?arch={architecture}", "")


def write_programs(out, crate, cargo):
    components = list(header_components())
    without = []
    for package in crates(crate, cargo):
        name, version = package["name"], package["version"]
        license_name = (package["license"] or "").replace("/", " OR ")
        components.append(component("crate", name, version, f"pkg:cargo/{name}@{version}", license_name))
        if not copy_licenses(pathlib.Path(package["manifest_path"]).parent, out / "licenses" / f"{name}-{version}"):
            without.append(f"{name} {version}: {license_name}")
    (out / "licenses").mkdir(parents=True, exist_ok=True)
    (out / "licenses/README").write_text(
        "Licences of the Rust crates that the programs contain, as their sources have them. These come without a text, "
        "under the licence that their metadata names:\n" + "".join(f"  {line}\n" for line in without))
    (out / "copyright").write_text((ROOT / "deploy/package/copyright").read_text() + "\n" + (ROOT / "LICENSE").read_text())
    (out / "components.json").write_text(json.dumps(components, indent=1) + "\n")


def write_libtorch(out, site_packages):
    components = []
    for name in WHEELS:
        folder, metadata = wheel_metadata(site_packages, name)
        label, version = metadata["Name"], metadata["Version"]
        license_name = metadata["License-Expression"] or metadata["License"] or ""
        components.append(component("wheel", label, version, f"pkg:pypi/{label}@{version}", license_name))
        target = out / "licenses" / f"{label}-{version}"
        if not any([copy_licenses(place, target) for place in (folder, folder / "licenses") if place.is_dir()]):
            raise SystemExit(f"third_party.py: {folder} has no licence")
    (out / "copyright").write_text(
        "The libraries in /usr/lib/rollcall are those of the wheels below; their licences lie in licenses/ beside this file.\n"
        + "".join(f"  {c['name']} {c['version']}\n" for c in components))
    (out / "components.json").write_text(json.dumps(components, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser()
    for name in ("crate", "wheels", "out"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--cargo", default="cargo")
    arguments = parser.parse_args()
    for name in ("programs", "libtorch"):
        shutil.rmtree(arguments.out / name, ignore_errors=True)
        (arguments.out / name).mkdir(parents=True)
    write_programs(arguments.out / "programs", arguments.crate, arguments.cargo)
    write_libtorch(arguments.out / "libtorch", arguments.wheels)


if __name__ == "__main__":
    main()
