#!/usr/bin/env python3
"""clang-tidy over our sources, within a budget of time.

usage: check_tidy.py --root ROOT --build BUILD [--budget SECONDS] [--jobs N]

A file costs 3 to 10 seconds, so what passed is remembered (in the cache folder that all checkouts share) by a hash of
the file, of every header of ours that it includes, of its flags and of the list of checks. A run checks what changed
since, newest files first, and says how many the budget did not reach. Without --budget it checks everything: that is
the slow test, and what to run after changing .clang-tidy.

With a budget, files that include LibTorch (10 seconds) and tests (8 seconds) wait for the slow test.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

TIDY = "clang-tidy-14"


class Source:
    """One entry of compile_commands.json."""

    def __init__(self, entry, dependencies, root, hashes):
        self.path = pathlib.Path(entry["file"])
        self.relative = self.path.relative_to(root)
        ours = sorted({d for d in dependencies if d.is_relative_to(root)} | {self.path, root / ".clang-tidy"})
        self.uses_torch = any("torch_include" in d.parts for d in dependencies)
        self.is_test = self.path.stem.endswith("_test") or self.relative.parts[0] == "tests"
        self.modified = max((d.stat().st_mtime for d in ours if d.exists()), default=0)
        flags = [f for f in shlex.split(entry["command"]) if f.startswith(("-D", "-I", "-f", "-m", "-std"))]
        digest = hashlib.sha256()
        for part in (TIDY, *(f.replace(str(root), "") for f in flags)):
            digest.update(part.encode() + b"\0")
        for path in ours:
            digest.update(f"{path.relative_to(root)}\0{hashes(path)}\0".encode())
        self.key = digest.hexdigest()


def file_hashes():
    known = {}

    def of(path):
        if path not in known:
            known[path] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        return known[path]

    return of


def ninja_dependencies(build):
    """The files that each object was compiled from, as ninja recorded them."""
    listing = subprocess.run(["ninja", "-C", build, "-t", "deps"], capture_output=True, text=True, check=True).stdout
    dependencies, current = {}, None
    for line in listing.splitlines():
        if line.startswith("    "):
            current.append(pathlib.Path(os.path.normpath(build / line.strip())))
        elif ": #deps" in line:
            current = dependencies.setdefault(line.split(": #deps")[0], [])
    return dependencies


def sources(root, build):
    dependencies, hashes = ninja_dependencies(build), file_hashes()
    for entry in json.loads((build / "compile_commands.json").read_text()):
        path = pathlib.Path(entry["file"])
        if path.is_relative_to(root) and not path.is_relative_to(root / "build"):
            words = shlex.split(entry["command"])
            compiled_from = dependencies.get(words[words.index("-o") + 1])
            if compiled_from:  # else it is not built here, and what it includes may not exist yet
                yield Source(entry, compiled_from, root, hashes)


def check(source, build):
    """The findings as text; empty: none."""
    # What clang does not know of gcc's flags is no finding.
    run = subprocess.run(
        [TIDY, "--quiet", "-p", build, "--extra-arg=-Wno-unknown-warning-option",
         "--extra-arg=-Wno-ignored-optimization-argument", source.path],
        capture_output=True, text=True)
    return "" if run.returncode == 0 else (run.stdout.strip() or run.stderr.strip())


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--root", type=pathlib.Path, required=True)
    arguments.add_argument("--build", type=pathlib.Path, required=True)
    arguments.add_argument("--budget", type=float)
    arguments.add_argument("--jobs", type=int, default=2)
    options = arguments.parse_args()
    root, build = options.root.resolve(), options.build.resolve()
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "rollcall" / "tidy"
    cache.mkdir(parents=True, exist_ok=True)

    everything = list(sources(root, build))
    changed = [s for s in everything if not (cache / s.key).exists()]
    if options.budget is not None:
        changed = [s for s in changed if not s.uses_torch and not s.is_test]
    changed.sort(key=lambda s: (-s.modified, s.relative))

    deadline = time.monotonic() + options.budget if options.budget is not None else float("inf")
    skipped, bad = [], []

    def work(source):
        if time.monotonic() > deadline:
            skipped.append(source)
            return
        findings = check(source, build)
        if findings:
            bad.append(source)
            print(f"{source.relative}:\n{findings}".replace(f"{root}/", ""), flush=True)
        else:
            (cache / source.key).touch()

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for done in [pool.submit(work, source) for source in changed]:
            done.result()
    print(f"{len(everything)} files: {len(changed) - len(skipped)} checked now, {len(bad)} with findings, "
          f"{len(everything) - len(changed)} left alone (unchanged, or for the slow test), "
          f"{len(skipped)} beyond the budget")
    return 1 if bad or not everything else 0


if __name__ == "__main__":
    sys.exit(main())
