#!/usr/bin/env python3
"""Rules about our sources that no compiler checks: sizes, names, and a few things never to write.

usage: check_sources.py ROOT
"""

import pathlib
import re
import sys

FOLDERS = ("common", "services", "proto", "tests", "sdk")
SUFFIXES = (".h", ".cc", ".cu", ".rs", ".py", ".proto")

# Lines a person can read in one sitting.
LIMITS = {"header": 250, "source": 500, "test": 900}
FUNCTION_LIMIT = 60
# Names that say nothing about what is inside.
VAGUE = re.compile(r"^(utils?|helpers?|misc)$|^common_|_(utils?|helpers?|misc)$")

FORBIDDEN = (
    (re.compile(r"#include [<\"]torch/torch\.h"), "torch/torch.h costs 17 s a file: include ATen/ops/<op>.h"),
    (re.compile(r"\b(sleep_for|sleep_until|SleepFor|usleep|nanosleep)\s*\("),
     "wait on a condition with a deadline instead of sleeping"),
    (re.compile(r"\b(TODO|FIXME|XXX)\b"), "file an issue instead"),
)


def kind(path):
    if path.stem.endswith("_test") or path.parts[0] == "tests":
        return "test"
    # An _impl.h is a source that is compiled several times.
    return "header" if path.suffix == ".h" and not path.stem.endswith("_impl") else "source"


def long_functions(lines):
    """(first line, name, length) of each function at namespace level; the sources are formatted."""
    begin = None
    for number, line in enumerate(lines, 1):
        if re.match(r"(namespace|class|struct|enum|union|extern|template|using|#|//|\s|\}|$)", line) is None:
            if begin is None:
                begin = (number, line)
        if re.match(r"\S.*(;|\})$|\s+[:,].*\{\}$", line):
            begin = None  # a declaration, or a function of one line
        if line == "}" or line.startswith("}  //"):
            if begin is not None and number - begin[0] + 1 > FUNCTION_LIMIT:
                yield begin[0], begin[1].split("(")[0].split()[-1], number - begin[0] + 1
            begin = None


def faults(root, path):
    relative = path.relative_to(root)
    lines = path.read_text(encoding="utf-8").split("\n")
    count = len(lines) - 1
    limit = LIMITS[kind(relative)]
    if count > limit:
        yield f"{relative}: {count} lines, the limit for a {kind(relative)} is {limit}: find the second noun in it"
    for part in (*relative.parts[:-1], relative.stem.removesuffix("_test")):
        if VAGUE.search(part):
            yield f"{relative}: the name '{part}' says nothing about what is inside"
    if path.suffix == ".h" and "#pragma once" not in lines:
        yield f"{relative}: no #pragma once"
    for number, line in enumerate(lines, 1):
        for pattern, advice in FORBIDDEN:
            if pattern.search(line):
                yield f"{relative}:{number}: {advice}"
    if path.suffix == ".cc" and kind(relative) != "test":
        for number, name, length in long_functions(lines):
            yield f"{relative}:{number}: {name} has {length} lines, the limit is {FUNCTION_LIMIT}"


def main():
    root = pathlib.Path(sys.argv[1]).resolve()
    paths = sorted(p for folder in FOLDERS for p in (root / folder).rglob("*")
                   if p.suffix in SUFFIXES and p.name != pathlib.Path(__file__).name)
    found = [fault for path in paths for fault in faults(root, path)]
    print("\n".join(found))
    print(f"{len(paths)} files, {len(found)} faults")
    return 1 if found or not paths else 0


if __name__ == "__main__":
    sys.exit(main())
